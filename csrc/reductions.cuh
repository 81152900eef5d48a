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

// How the threads of a block share the columns of a group's products: so many columns at a time, and where that leaves
// several threads for each, these share the summed dimension.
struct GroupColumns {
  int columns;

  DEVICE explicit GroupColumns(int all)
      : columns(all <= block_threads / 4   ? block_threads / 4
                : all <= block_threads / 2 ? block_threads / 2
                                           : block_threads) {}
  DEVICE int sharers() const { return block_threads / columns; }
  DEVICE int column() const { return device::thread_index() % columns; }
  DEVICE int share() const { return device::thread_index() / columns; }
};

// Coefficients of a group's products that are in shared memory at a time.
constexpr int group_depth = 64;
constexpr int group_scratch = channel_group * group_depth;                                     // floats
constexpr int group_sums = group_scratch + block_threads / device::warp_size * channel_group;  // behind reductions'
static_assert(4 * (group_sums + channel_group * block_threads) <= ring_bytes);

// Adds the sums of the threads that share a column to those of the first of them, in a fixed order.
DEVICE void join_shares(const GroupColumns& own, float (&products)[channel_group]) {
  if (own.sharers() == 1) return;
  const auto at = [&](int share, int i) {
    return stage_float(group_sums + (share * channel_group + i) * own.columns + own.column());
  };
  if (own.share() > 0)
#pragma unroll
    for (int i = 0; i < channel_group; ++i) device::shared_store(at(own.share(), i), products[i]);
  device::block_sync();
  if (own.share() > 0) return;
#pragma unroll 1
  for (int share = 1; share < own.sharers(); ++share)
#pragma unroll
    for (int i = 0; i < channel_group; ++i) products[i] += device::shared_load<float>(at(share, i));
}

// products[i] += sum over k < depth of coefficient(k, i) * entry(k), for the group's channels i and the thread's
// column, if it is `active`: a few rows of a matrix product. Called by all threads; the first to share a column has the
// result.
template <class Coefficient, class Entry>
DEVICE void multiply_group(const GroupColumns& own, int depth, bool active, Coefficient coefficient, Entry entry,
                           float (&products)[channel_group]) {
  for (int k = 0; k < depth; k += group_depth) {
    const int left = depth - k < group_depth ? depth - k : group_depth;
    device::block_sync();
    for (int at = device::thread_index(); at < channel_group * group_depth; at += block_threads) {
      const int i = at / group_depth, step = at % group_depth;
      const float value = step < left ? coefficient(k + step, i) : 0.0f;
      device::shared_store(stage_float(step * channel_group + i), value);
    }
    device::block_sync();
    if (!active) continue;
#pragma unroll 8
    for (int step = own.share(); step < left; step += own.sharers()) {
      const float factor = entry(k + step);
#pragma unroll
      for (int i = 0; i < channel_group; i += 4) {
        const auto four = device::shared_load<Vector16<float>>(stage_float(step * channel_group + i));
#pragma unroll
        for (int j = 0; j < 4; ++j) products[i + j] = device::fma(four.values[j], factor, products[i + j]);
      }
    }
  }
  join_shares(own, products);
}

// The weight that `Products` multiplies with, of one output and one input channel.
template <class Products>
DEVICE float weight_element(const Branch& branch, int channel, int input) {
  using Element = typename Products::Element;
  const Matrix& w = branch.weight;
  const Element* at = static_cast<const Element*>(w.data) + channel * w.stride_c + input * w.stride_k;
  return Products::operand(device::to_float(device::global_load(at)));
}

// Adds (W Cov)[first + i, b] for the group's channels; rows of W that do not exist are zeros.
template <class Products>
DEVICE void multiply_covariance(const Tail& tail, const Branch& branch, const GroupColumns& own, int first, int b,
                                float (&products)[channel_group]) {
  const int inputs = branch.x.channels;
  multiply_group(
      own, inputs, b < inputs,
      [&](int k, int i) { return first + i < tail.channels ? weight_element<Products>(branch, first + i, k) : 0.0f; },
      [&](int k) { return device::global_load(branch.cov + static_cast<std::int64_t>(k) * inputs + b); }, products);
}

}  // namespace fused_resnet
