// The launch under way, and what outlives launches so that the next one need not set it up again.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include <engine/barrier.h>
#include <engine/counters.h>
#include <engine/stamp.h>
#include <engine/thread.h>

namespace fused_resnet::emulator {

struct Grid {
  std::string kernel;
  std::function<void()> body;
  bool cooperative = false;
  Time began = 0;
  Barrier barrier;
  int phase = 0;              // grid barriers so far
  Work work;                  // of this phase
  std::vector<Phase> phases;  // those that have ended

  Time clock = 0;
  int alive_blocks = 0;  // the first ones of `blocks`
  std::vector<std::unique_ptr<Block>> blocks;
  std::vector<std::unique_ptr<Thread>> threads;
};

extern __attribute__((visibility("hidden"))) Grid grid;

// Held by a launch, and by whoever looks at or changes what launches use.
extern std::mutex one_at_a_time;

// A barrier of the group has opened: what its threads have done so far is ordered before what they will do.
void order(Warp& warp, Scope scope, Time now);
void order(Block& block, Scope scope, Time now);

// Closes the books on the present phase.
void end_phase();

}  // namespace fused_resnet::emulator
