// The forward kernels: each phase alone, and all of them in one cooperative launch with grid barriers between.
#pragma once

#include <algorithm>

#include <finish.cuh>
#include <forward.h>
#include <launch.cuh>

namespace fused_resnet {

// Two products need two sets of accumulators, which leaves registers for one block a multiprocessor.
constexpr int blocks_a_multiprocessor(int products) { return products == 2 ? 1 : 2; }
constexpr int moments_blocks = 2;
constexpr int finish_blocks = 1;

template <class Products>
KERNEL(block_threads, device::fitting_blocks(moments_blocks, shared_bytes))
moments_kernel(PARAMETER Tail tail) {
  moments<Products>(tail);
}

template <class Products>
DEVICE void finish_phase(const Tail& tail) {
  if (has_gram(tail)) {
    combine(tail);
    device::grid_sync();
  }
  finish<Products>(tail);
}

template <class Products>
KERNEL(block_threads, finish_blocks)
finish_kernel(PARAMETER Tail tail) {
  finish_phase<Products>(tail);
}

// Statistics alone, for the processes that share them to exchange ahead of the apply phase.
template <class Products>
KERNEL(block_threads, device::fitting_blocks(moments_blocks, shared_bytes))
summarise_kernel(PARAMETER Tail tail) {
  moments<Products>(tail);
  device::grid_sync();
  finish_phase<Products>(tail);
}

template <class Products, int products>
KERNEL(block_threads, device::fitting_blocks(blocks_a_multiprocessor(products), shared_bytes))
apply_kernel(PARAMETER Tail tail) {
  apply<Products, products>(tail);
}

template <class Products, int products>
KERNEL(block_threads, device::fitting_blocks(blocks_a_multiprocessor(products), shared_bytes))
forward_kernel(PARAMETER Tail tail) {
  moments<Products>(tail);
  device::grid_sync();
  finish_phase<Products>(tail);
  device::grid_sync();
  apply<Products, products>(tail);
}

template <class Products, int products>
void ForwardLauncher<Products, products>::launch(Phase phase, const Tail& tail,
                                                 const std::vector<device::Buffer>& buffers, device::Stream stream) {
  const auto start = [&](void (*kernel)(Tail), const char* name, bool cooperative, int items) {
    launch_persistent(kernel, {name, block_threads, shared_bytes, 0, cooperative}, items, tail, buffers, stream);
  };
  const int moments_work = moments_items(tail, tail.branches[0]) + moments_items(tail, tail.branches[1]);
  const int apply_work = apply_items(tail);
  switch (phase) {
    case Phase::moments:
      return start(moments_kernel<Products>, "moments", false, moments_work);
    case Phase::finish:
      return start(finish_kernel<Products>, "finish", true, moments_work);
    case Phase::apply:
      return start(apply_kernel<Products, products>, "apply", false, apply_work);
    case Phase::summarise:
      if (moments_work == 0) return;
      return start(summarise_kernel<Products>, "summarise", true, moments_work);
    case Phase::all:
      if (moments_work == 0) return start(apply_kernel<Products, products>, "apply", false, apply_work);
      return start(forward_kernel<Products, products>, "forward", true, std::max(moments_work, apply_work));
  }
}

template <class Products, int products>
NeedsByKernel ForwardLauncher<Products, products>::needs() {
  const auto asking = [](int blocks) { return LaunchNeeds{block_threads, shared_bytes, blocks}; };
  const std::string suffix = "<" + std::to_string(products) + ">";
  return {{"moments", asking(moments_blocks)},
          {"finish", asking(finish_blocks)},
          {"summarise", asking(moments_blocks)},
          {"apply" + suffix, asking(blocks_a_multiprocessor(products))},
          {"forward" + suffix, asking(blocks_a_multiprocessor(products))}};
}

}  // namespace fused_resnet
