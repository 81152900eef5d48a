// How a mistake of a kernel is reported.
#pragma once

#include <cstdint>
#include <string>

#include <engine/barrier.h>
#include <engine/place.h>
#include <engine/shadow.h>

namespace fused_resnet::emulator {

// Throws std::runtime_error: what the running thread did wrong, and where.
[[noreturn]] void fault(const std::string& what, const Place& place);

// A conflict found by a shadow. `access`: "read" or "write"; `bytes`: which ones.
[[noreturn]] void fault(const Finding& finding, const char* access, const std::string& bytes, const Place& place);

std::string describe(const Place& place);
std::string describe(const Meeting& meeting);
std::string describe(const Thread& thread);

// "[12, 16)"
std::string range(std::int64_t first, std::int64_t bytes);

}  // namespace fused_resnet::emulator
