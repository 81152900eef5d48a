// The backward kernels: each phase alone, and all of them in one cooperative launch with grid barriers between; and in
// two, for processes to exchange their sums between these. `projections`: the tail has any.
#pragma once

#include <algorithm>

#include <backward.h>
#include <grad_apply.cuh>
#include <launch.cuh>

namespace fused_resnet {

constexpr int gradient_blocks = 2;

template <class Products, bool projections>
KERNEL(block_threads, device::fitting_blocks(gradient_blocks, gradient_shared_bytes))
grad_reduce_kernel(PARAMETER TailGradient gradient) {
  grad_reduce<Products, projections>(gradient);
}

template <class Products, bool projections>
KERNEL(block_threads, device::fitting_blocks(gradient_blocks, gradient_shared_bytes))
grad_finish_kernel(PARAMETER TailGradient gradient) {
  grad_finish<Products, projections>(gradient);
}

template <class Products, bool projections>
KERNEL(block_threads, device::fitting_blocks(gradient_blocks, gradient_shared_bytes))
grad_apply_kernel(PARAMETER TailGradient gradient) {
  grad_apply<Products, projections>(gradient);
}

template <class Products, bool projections>
KERNEL(block_threads, device::fitting_blocks(gradient_blocks, gradient_shared_bytes))
backward_kernel(PARAMETER TailGradient gradient) {
  grad_reduce<Products, projections>(gradient);
  device::grid_sync();
  grad_finish<Products, projections>(gradient);
  device::grid_sync();
  grad_apply<Products, projections>(gradient);
}

template <class Products, bool projections>
KERNEL(block_threads, device::fitting_blocks(gradient_blocks, gradient_shared_bytes))
grad_summarise_kernel(PARAMETER TailGradient gradient) {
  grad_reduce<Products, projections>(gradient);
  device::grid_sync();
  finish_vectors<Products, projections>(gradient);
}

// Of a tail with projections: in any other, the apply phase is all that is left.
template <class Products>
KERNEL(block_threads, device::fitting_blocks(gradient_blocks, gradient_shared_bytes))
grad_complete_kernel(PARAMETER TailGradient gradient) {
  finish_operands<Products>(gradient);
  device::grid_sync();
  grad_apply<Products, true>(gradient);
}

template <class Products, bool projections>
void BackwardLauncher<Products, projections>::launch(GradientPhase phase, const TailGradient& gradient,
                                                     const std::vector<device::Buffer>& buffers,
                                                     device::Stream stream) {
  const auto start = [&](void (*kernel)(TailGradient), const char* name, bool cooperative, int items) {
    if (items > 0)
      launch_persistent(kernel, {name, block_threads, gradient_shared_bytes, 0, cooperative}, items, gradient, buffers,
                        stream);
  };
  const int reduce = gradient.reduce.items, finish = finish_items(gradient), apply = gradient.apply.items;
  const int vectors = vector_items(gradient);
  const bool recomputed = any_recomputed(gradient);
  const auto reduce_alone = [&] { start(grad_reduce_kernel<Products, projections>, "grad_reduce", false, reduce); };
  const auto finish_alone = [&] {
    start(grad_finish_kernel<Products, projections>, "grad_finish", projections, finish);
  };
  const auto apply_alone = [&] { start(grad_apply_kernel<Products, projections>, "grad_apply", recomputed, apply); };
  switch (phase) {
    case GradientPhase::reduce:
      return reduce_alone();
    case GradientPhase::finish:
      return finish_alone();
    case GradientPhase::apply:
      return apply_alone();
    case GradientPhase::summarise:
      if (vectors == 0) return reduce_alone();
      return start(grad_summarise_kernel<Products, projections>, "grad_summarise", true, std::max(reduce, vectors));
    case GradientPhase::complete:
      if constexpr (projections)
        if (has_matrices(gradient) || factor_items(gradient) > 0)
          return start(grad_complete_kernel<Products>, "grad_complete", true, std::max(finish, apply));
      return apply_alone();
    case GradientPhase::all:
      // One phase that has work needs no barrier.
      if (finish + apply == 0) return reduce_alone();
      if (reduce + finish == 0) return apply_alone();
      start(backward_kernel<Products, projections>, "backward", true, std::max({reduce, finish, apply}));
  }
}

template <class Products, bool projections>
NeedsByKernel BackwardLauncher<Products, projections>::needs() {
  const LaunchNeeds needs{block_threads, gradient_shared_bytes, gradient_blocks};
  const std::string suffix = projections ? "<1>" : "<0>";
  return {{"grad_reduce" + suffix, needs},    {"grad_finish" + suffix, needs}, {"grad_apply" + suffix, needs},
          {"grad_summarise" + suffix, needs}, {"grad_complete", needs},        {"backward" + suffix, needs}};
}

}  // namespace fused_resnet
