// What the host says about a launch, under the names of `csrc/device/launch.h`.
#pragma once

#include <cstddef>
#include <string>

namespace fused_resnet::device {

struct Buffer {
  enum class Access { read, write, read_write };
  std::string name;
  std::size_t offset_in_parameters;
  const void* first;
  std::size_t bytes;
  Access access;
};

struct Launch {
  const char* name;
  int threads;
  int shared_bytes;
  int blocks;
  bool cooperative;
};

}  // namespace fused_resnet::device
