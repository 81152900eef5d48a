// What the host says about a launch; the same for GPUs and for the emulator.
#pragma once

#include <cstddef>

namespace fused_resnet::device {

// A name in a few parts that are literals. Text is made of it only where somebody is to read it: a
// valid call makes none.
struct Name {
  static constexpr int most_parts = 6;
  const char* parts[most_parts] = {};  // null: no more

  constexpr Name(const char* first) : parts{first} {}

  friend constexpr Name operator+(Name all, const Name& more) {
    int at = 0;
    while (at < most_parts && all.parts[at] != nullptr) ++at;
    for (const char* part : more.parts)
      if (part != nullptr && at < most_parts) all.parts[at++] = part;
    return all;
  }
};

// A pointer inside a kernel's parameters, at `offset_in_parameters` bytes from their start, and the memory behind it:
// the kernel may touch [first, first + bytes). GPUs have no use for it; the emulator holds the kernel to it.
struct Buffer {
  enum class Access { read, write, read_write };  // write: what is there before counts as uninitialised
  Name name;
  std::size_t offset_in_parameters;
  const void* first;
  std::size_t bytes;
  Access access;
};

struct Launch {
  const char* name;  // of the kernel, or of the phases that it is to run, for error messages
  int threads;
  int shared_bytes;
  int blocks;
  bool cooperative;
};

}  // namespace fused_resnet::device
