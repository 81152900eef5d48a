// The backward kernel: all phases, or some of them, in one launch with grid barriers between. `projections`: the tail
// has any.
#pragma once

#include <algorithm>

#include <backward.h>
#include <grad_apply.cuh>
#include <launch.cuh>

namespace fused_resnet {

constexpr int gradient_blocks = 2;

// What a launch is asked for, as in ForwardWork; `vectors` and `operands` are the halves of the finish phase.
struct BackwardWork {
  TailGradient gradient;
  bool reduce, vectors, operands, apply;
  StepCounts steps[2];  // of each branch's dx
};

template <class Products, bool projections>
KERNEL(block_threads, device::fitting_blocks(gradient_blocks, gradient_shared_bytes))
backward_kernel(PARAMETER BackwardWork work) {
  if (work.reduce) {
    grad_reduce<Products, projections>(work.gradient);
    if (work.vectors) device::grid_sync();
  }
  if (work.vectors) finish_vectors<Products, projections>(work.gradient);
  if constexpr (projections) {
    if (work.operands) {
      if (work.vectors) device::grid_sync();
      finish_operands<Products>(work.gradient);
    }
  }
  if (work.apply) {
    if (work.vectors || work.operands) device::grid_sync();
    grad_apply<Products, projections>(work.gradient, work.steps);
  }
}

template <class Products, bool projections>
void BackwardLauncher<Products, projections>::launch(GradientPhase phase, const TailGradient& gradient,
                                                     const std::vector<device::Buffer>& buffers,
                                                     device::Stream stream) {
  const int reduce = gradient.reduce.items, finish = finish_items(gradient), apply = gradient.apply.items;
  const int vectors = vector_items(gradient);
  const int slots = projections ? step_slots() : few_slots;
  const auto start = [&](const char* name, int items, BackwardWork work) {
    for (int i = 0; i < 2; ++i) work.steps[i] = gradient_steps<Products>(gradient, slots, i);
    const bool barriers = work.operands || work.reduce + work.vectors + work.apply > 1;
    const device::Launch how{name, block_threads, shared_bytes_of(slots, gradient_shared_bytes), 0, barriers};
    if (items > 0) launch_persistent(backward_kernel<Products, projections>, how, items, work, buffers, stream);
  };
  const auto reduce_alone = [&] { start("grad_reduce", reduce, {gradient, true, false, false, false, {}}); };
  const auto apply_alone = [&] { start("grad_apply", apply, {gradient, false, false, false, true, {}}); };
  switch (phase) {
    case GradientPhase::reduce:
      return reduce_alone();
    case GradientPhase::finish:
      return start("grad_finish", finish, {gradient, false, true, projections, false, {}});
    case GradientPhase::apply:
      return apply_alone();
    case GradientPhase::summarise:
      if (vectors == 0) return reduce_alone();
      return start("grad_summarise", std::max(reduce, vectors), {gradient, true, true, false, false, {}});
    case GradientPhase::complete:
      if (!has_matrices(gradient)) return apply_alone();
      return start("grad_complete", std::max(finish, apply), {gradient, false, false, true, true, {}});
    case GradientPhase::all:
      // One phase that has work needs no barrier.
      if (finish + apply == 0) return reduce_alone();
      if (reduce + finish == 0) return apply_alone();
      start("backward", std::max({reduce, finish, apply}), {gradient, true, true, projections, true, {}});
  }
}

template <class Products, bool projections>
NeedsByKernel BackwardLauncher<Products, projections>::needs() {
  const std::string name = projections ? "backward<1>" : "backward<0>";
  return {{name, {block_threads, gradient_shared_bytes, gradient_blocks}}};
}

}  // namespace fused_resnet
