// Accesses of the running thread: in bounds, aligned, initialised and free of races, or a fault. Sizes are those of
// `csrc/device/memory.cuh`.
#pragma once

#include <cstdint>

#include <engine/place.h>

namespace fused_resnet::emulator {

// Where the bytes are.
template <int bytes>
const char* shared_read(std::uint32_t offset, const Place& place);
template <int bytes>
char* shared_write(std::uint32_t offset, const Place& place);

// A write that may land at any time in between.
template <int bytes>
void shared_take_off(std::uint32_t offset, const Place& place);
template <int bytes>
char* shared_land(std::uint32_t offset);

template <int bytes>
void global_read(const void* address, const Place& place);
template <int bytes>
void global_write(const void* address, const Place& place);

// The last moment of a read that began with `global_read`: counted once.
template <int bytes>
void global_read_again(const void* address, const Place& place);

}  // namespace fused_resnet::emulator
