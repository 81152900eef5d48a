// Sums over lanes and blocks in an order that never changes.
#pragma once

#include <columns.cuh>

namespace fused_resnet {

// Floats of the stages, which are free between the phases that stream.
DEVICE SharedOffset stage_float(int i) { return 4 * i; }

// The sum over the warp's lanes, float or double.
template <class T>
DEVICE T warp_sum(T x) {
#pragma unroll
  for (int mask = device::warp_size / 2; mask > 0; mask /= 2) x += device::warp_exchange(x, mask);
  return x;
}

DEVICE float warp_max(float x) {
#pragma unroll
  for (int mask = device::warp_size / 2; mask > 0; mask /= 2) {
    const float other = device::warp_exchange(x, mask);
    x = other > x ? other : x;
  }
  return x;
}

// Turns each thread's values into the block's, in every thread, by way of the stages from float `free` on:
// `of_warp` reduces over lanes, `join(a, b)` two results. Called by all threads.
template <class OfWarp, class Join>
DEVICE void reduce_over_block(float (&values)[channel_group], int free, OfWarp of_warp, Join join) {
  device::block_sync();
#pragma unroll
  for (int i = 0; i < channel_group; ++i) {
    const float result = of_warp(values[i]);
    if (device::lane_index() == 0)
      device::shared_store(stage_float(free + device::warp_index() * channel_group + i), result);
  }
  device::block_sync();
#pragma unroll
  for (int i = 0; i < channel_group; ++i) {
    values[i] = device::shared_load<float>(stage_float(free + i));
#pragma unroll 1
    for (int warp = 1; warp < block_threads / device::warp_size; ++warp)
      values[i] = join(values[i], device::shared_load<float>(stage_float(free + warp * channel_group + i)));
  }
}

DEVICE void sum_over_block(float (&values)[channel_group], int free) {
  reduce_over_block(values, free, [](float x) { return warp_sum(x); }, [](float a, float b) { return a + b; });
}

DEVICE void max_over_block(float (&values)[channel_group], int free) {
  reduce_over_block(values, free, [](float x) { return warp_max(x); }, [](float a, float b) { return b > a ? b : a; });
}

// The weight that `Products` multiplies with, of one output and one input channel.
template <class Products>
DEVICE float weight_element(const Branch& branch, int channel, int input) {
  using Element = typename Products::Element;
  const Matrix& w = branch.weight;
  const Element* at = static_cast<const Element*>(w.data) + channel * w.stride_c + input * w.stride_k;
  return Products::operand(device::to_float(device::global_load(at)));
}

}  // namespace fused_resnet
