// Copies from global to shared memory that land only when their thread waits for them.
#pragma once

#include <cstdint>
#include <vector>

#include <engine/place.h>

namespace fused_resnet::emulator {

// Those of one thread that are in flight, in the order of issue.
struct Copies {
  struct Copy {
    std::uint32_t to;
    const void* from;
    int bytes;  // 4 or 16
    int count;  // of these that are read
    int group;
    Place place;
  };
  std::vector<Copy> in_flight;
  int groups = 0;  // committed so far

  void reset();
};

// Of the bytes the first `count` are read, and the others become zeros.
template <int bytes>
void copy_async(std::uint32_t to, const void* from, int count, const Place& place);
void copy_async_commit();
void copy_async_wait(int pending);
// A thread may not end before its copies.
void check_no_copy_in_flight();

}  // namespace fused_resnet::emulator
