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
    bool valid;
    int group;
    Place place;
  };
  std::vector<Copy> in_flight;
  int groups = 0;  // committed so far

  void reset();
};

void copy_async_16(std::uint32_t to, const void* from, bool valid, const Place& place);
void copy_async_commit();
void copy_async_wait(int pending);
// A thread may not end before its copies.
void check_no_copy_in_flight();

}  // namespace fused_resnet::emulator
