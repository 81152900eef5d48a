// The forward kernel: all phases, or some of them, in one launch with grid barriers between. `projections`: the tail
// has any.
#pragma once

#include <algorithm>

#include <finish.cuh>
#include <forward.h>
#include <launch.cuh>

namespace fused_resnet {

constexpr int forward_blocks = 2;

// What a launch is asked for. One kernel has all phases: each alone, compiled once more, would take as long as all.
struct ForwardWork {
  Tail tail;
  bool moments, finish, apply;
  Work statistics;   // of finish
  StepCounts steps;  // of apply
  int columns;       // of tiles
};

template <class Products, bool projections>
KERNEL(block_threads, device::fitting_blocks(forward_blocks, shared_bytes))
forward_kernel(PARAMETER ForwardWork work) {
  if (work.moments) {
    moments<Products>(work.tail);
    if (work.finish) device::grid_sync();
  }
  if (work.finish) {
    finish_phase<Products>(work.tail, work.statistics);
    if (work.apply) device::grid_sync();
  }
  if (work.apply) apply<Products, projections>(work.tail, work.steps, work.columns);
}

template <class Products, bool projections>
void ForwardLauncher<Products, projections>::launch(Phase phase, const Tail& tail,
                                                    const std::vector<device::Buffer>& buffers, device::Stream stream) {
  const int moments = moments_items(tail, tail.branches[0]) + moments_items(tail, tail.branches[1]);
  const Work statistics = statistics_work(tail);
  const int summarised = std::max(moments, statistics.items), applied = apply_items(tail);
  const int slots = projections ? step_slots() : few_slots;
  const auto start = [&](const char* name, int items, ForwardWork work) {
    work.statistics = statistics;
    work.steps = output_steps<typename Products::Element>(tail, slots);
    work.columns = tiles_of(tail.channels, tile_columns);
    const device::Launch how{name, block_threads, shared_bytes_of(slots, shared_bytes), 0, work.finish};
    launch_persistent(forward_kernel<Products, projections>, how, items, work, buffers, stream);
  };
  switch (phase) {
    case Phase::moments:
      return start("moments", moments, {tail, true, false, false, {}, {}, 0});
    case Phase::finish:
      return start("finish", summarised, {tail, false, true, false, {}, {}, 0});
    case Phase::apply:
      return start("apply", applied, {tail, false, false, true, {}, {}, 0});
    case Phase::summarise:
      if (moments > 0) start("summarise", summarised, {tail, true, true, false, {}, {}, 0});
      return;
    case Phase::all:
      if (moments == 0) return start("apply", applied, {tail, false, false, true, {}, {}, 0});
      return start("forward", std::max(summarised, applied), {tail, true, true, true, {}, {}, 0});
  }
}

template <class Products, bool projections>
NeedsByKernel ForwardLauncher<Products, projections>::needs() {
  const std::string name = projections ? "forward<1>" : "forward<0>";
  return {{name, {block_threads, shared_bytes, forward_blocks}}};
}

}  // namespace fused_resnet
