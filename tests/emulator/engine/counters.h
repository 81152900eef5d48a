// What launches have read, written and multiplied.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include <engine/work.h>

namespace fused_resnet::emulator {

// Bytes of one buffer in one phase: how many different ones, and how many all accesses asked for.
struct Traffic {
  std::int64_t distinct_read = 0, distinct_written = 0;
  std::int64_t requested_read = 0, requested_written = 0;
};

struct Phase {
  Work work;
  std::vector<std::pair<std::string, Traffic>> buffers;
};

struct Record {
  std::string kernel;
  bool cooperative;
  int blocks, threads;
  std::vector<Phase> phases;
};

std::string json(const std::vector<Record>& records);

}  // namespace fused_resnet::emulator
