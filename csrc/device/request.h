// What the host says about a launch; the same for GPUs and for the emulator.
#pragma once

#include <cstddef>
#include <string>

namespace fused_resnet::device {

// A pointer inside a kernel's parameters, at `offset_in_parameters` bytes from their start, and the memory behind it:
// the kernel may touch [first, first + bytes). GPUs have no use for it; the emulator holds the kernel to it.
struct Buffer {
  enum class Access { read, write, read_write };  // write: what is there before counts as uninitialised
  std::string name;
  std::size_t offset_in_parameters;
  const void* first;
  std::size_t bytes;
  Access access;
};

struct Launch {
  const char* name;  // of the kernel, for error messages
  int threads;
  int shared_bytes;
  int blocks;
  bool cooperative;
};

}  // namespace fused_resnet::device
