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

// Sums that threads share which lie `apart` from each other, a power of two: as many sums as that, `count` each.
// `leave_sums` adds up what a warp's lanes have, and leaves it from `free` on; all threads call it. Behind a barrier,
// `joined_sums` gives each of the first `apart` threads its whole sums.
constexpr int block_warps = block_threads / device::warp_size;
template <int count>
constexpr SharedOffset shared_sums_bytes = 8 * count * block_threads;

DEVICE SharedOffset shared_sum(int i, int warp, int lane) {
  return 8 * ((i * block_warps + warp) * device::warp_size + lane);
}

template <int count>
DEVICE void leave_sums(double (&sums)[count], int apart, SharedOffset free) {
#pragma unroll 1
  for (int mask = apart; mask < device::warp_size; mask *= 2)
#pragma unroll
    for (double& sum : sums) sum += device::warp_exchange(sum, mask);
#pragma unroll
  for (int i = 0; i < count; ++i)
    device::shared_store(free + shared_sum(i, device::warp_index(), device::lane_index()), sums[i]);
}

template <int count>
DEVICE void joined_sums(double (&sums)[count], int apart, SharedOffset free) {
  const int further = apart > device::warp_size ? apart / device::warp_size : 1;
#pragma unroll 1
  for (int warp = device::warp_index() + further; warp < block_warps; warp += further)
#pragma unroll
    for (int i = 0; i < count; ++i)
      sums[i] += device::shared_load<double>(free + shared_sum(i, warp, device::lane_index()));
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

// The weights that `Products` multiplies with, of one output channel and four input channels, of which so many exist.
template <class Products>
DEVICE Vector16<float> weights_of_four(const Branch& branch, int channel, int input, int count) {
  using Element = typename Products::Element;
  const Matrix& w = branch.weight;
  const Element* from = static_cast<const Element*>(w.data) + channel * w.stride_c + input * w.stride_k;
  Channels<Element, 4> loaded{};
  if (w.vectorised) {
    if (count > 0) loaded = device::global_load(reinterpret_cast<const Channels<Element, 4>*>(from));
  } else {
#pragma unroll
    for (int i = 0; i < 4; ++i)
      if (i < count) loaded.at[i] = device::global_load(from + i * w.stride_k);
  }
  Vector16<float> weights;
#pragma unroll
  for (int i = 0; i < 4; ++i) weights.values[i] = Products::operand(device::to_float(loaded.at[i]));
  return weights;
}

}  // namespace fused_resnet
