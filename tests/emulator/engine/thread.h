// The threads of a launch and the groups they form.
#pragma once

#include <cstdint>
#include <vector>

#include <engine/barrier.h>
#include <engine/copies.h>
#include <engine/fiber.h>
#include <engine/mapping.h>
#include <engine/shadow.h>
#include <engine/stamp.h>
#include <engine/work.h>

namespace fused_resnet::emulator {

constexpr int lanes = 32;

struct Warp {
  Time barriers[scopes];  // see Actor
  Barrier barrier;
  const void* operands[lanes];  // what each lane has brought to the present meeting
  SharedAccesses accesses[lanes];
  std::int64_t issued[instructions];  // see Work
  double rounds;                      // see Work
};

struct Block {
  int index;
  int grid_size;
  Time began;
  std::vector<Warp> warps;
  Barrier barrier;
  std::uint32_t shared_bytes;
  Mapping shared;
  Shadow shared_shadow;
};

struct Thread {
  Fiber fiber;
  int index;  // in the block
  Block* block;
  Warp* warp;
  Actor actor;
  Copies copies;
  int loads;  // under way together
  bool finished;
  Meeting meeting;  // the one it waits in, or waited in last
};

// The thread that runs. Hidden, as all that kernels reach for often: no detour by way of the global offset table.
extern __attribute__((visibility("hidden"))) Thread* running;

}  // namespace fused_resnet::emulator
