// The backward's second phase: from partial sums to the gradients of parameters, and to what dx is multiplied from.
//
// Here, `finish_vectors` leaves dbeta and dgamma, and G = g^T (x - m); `grad_matrices.cuh` has the rest, behind a
// barrier. Processes that share statistics add up their sums between ("Several processes" in docs/design.md).
#pragma once

#include <grad_reduce.cuh>
#include <reductions.cuh>

namespace fused_resnet {

// Those of affine.cuh, for a branch; without a norm a is 1.
DEVICE float inverse_std(const Branch& branch, int channel) {
  return inverse_std(branch.norm, device::global_load(branch.var + channel));
}
DEVICE float norm_scale(const Branch& branch, int channel) {
  if (branch.statistics == Statistics::none) return 1.0f;
  return norm_scale(branch.norm, channel, device::global_load(branch.var + channel));
}

// d_i: the mean of this process's p less that of all processes'.
DEVICE float own_distance(const Branch& branch, const BranchGradient& own, int channel) {
  return device::global_load(own.own_mean + channel) - device::global_load(branch.mean + channel);
}

// db, of shared statistics times this process's share of the rows.
DEVICE float shared_sum(const TailGradient& gradient, const BranchGradient& own, int channel) {
  return own.shared_sum == nullptr ? device::global_load(gradient.sum + channel)
                                   : device::global_load(own.shared_sum + channel);
}

// S_i = db + dgamma d_i / std.
DEVICE float distant_sum(const TailGradient& gradient, int index, int channel) {
  const Branch& branch = gradient.tail.branches[index];
  const BranchGradient& own = gradient.branches[index];
  const float sum = shared_sum(gradient, own, channel);
  if (own.own_mean == nullptr) return sum;
  const float slope = device::global_load(own.dot + channel) * inverse_std(branch, channel);
  return device::fma(slope, own_distance(branch, own, channel), sum);
}

// db_i - S_i, the sum of dp / a over this process's rows: zero without others.
DEVICE float surplus(const TailGradient& gradient, int index, int channel) {
  return device::global_load(gradient.sum + channel) - distant_sum(gradient, index, channel);
}

// The sum of a channel's partial results, in double, by the lanes of a warp.
DEVICE double sum_of_partials(const float* partial, const Partition& partition, int channels, int channel) {
  double sum = 0.0;
#pragma unroll 4
  for (int range = device::lane_index(); range < partition.ranges; range += device::warp_size)
    sum += device::global_load(partial + static_cast<std::int64_t>(range) * channels + channel);
  return warp_sum(sum);
}

template <class Element>
DEVICE void store_element(const Matrix& matrix, int channel, int input, float value) {
  auto* data = static_cast<Element*>(matrix.data);
  device::global_store(data + channel * matrix.stride_c + input * matrix.stride_k, device::from_float<Element>(value));
}

// The sum over the ranges of a channel's partial products with the thread's input, `from` + its index, for as many
// inputs as a tile has; 0 in all other threads. Warps share the ranges, a lane has four inputs of each.
DEVICE double sum_of_row(const TailGradient& gradient, int index, int channel, int from) {
  constexpr int warps = block_threads / device::warp_size, vector = tile_columns / device::warp_size;
  const int tile = channel / tile_rows * gradient.branches[index].input_tiles + from / tile_columns;
  const int column = vector * device::lane_index(), element = channel % tile_rows * tile_columns + column;
  const int left = gradient.tail.branches[index].x.channels - from - column;
  double sums[vector] = {};
#pragma unroll 4
  for (int range = device::warp_index(); range < gradient.partition.ranges; range += warps) {
    const float* at = product_tile(gradient, index, range, tile) + element;
    Vector16<float> loaded{};
    if (left >= vector) {
      loaded = device::global_load(reinterpret_cast<const Vector16<float>*>(at));
    } else {
#pragma unroll
      for (int i = 0; i < vector; ++i) loaded.values[i] = i < left ? device::global_load(at + i) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < vector; ++i) sums[i] += loaded.values[i];
  }
  const auto scratch = [](int warp, int i) -> SharedOffset { return 8 * (warp * tile_columns + i); };
  device::block_sync();
#pragma unroll
  for (int i = 0; i < vector; ++i) device::shared_store(scratch(device::warp_index(), column + i), sums[i]);
  device::block_sync();
  if (device::thread_index() >= tile_columns) return 0.0;
  double sum = 0.0;
#pragma unroll
  for (int warp = 0; warp < warps; ++warp) sum += device::shared_load<double>(scratch(warp, device::thread_index()));
  return sum;
}
static_assert(8 * block_threads / device::warp_size * tile_columns <= ring_bytes);

// The sum over the block's threads, in each of them.
DEVICE double block_sum(double x) {
  x = warp_sum(x);
  device::block_sync();
  if (device::lane_index() == 0) device::shared_store(8 * device::warp_index(), x);
  device::block_sync();
  double sum = 0.0;
#pragma unroll
  for (int warp = 0; warp < block_threads / device::warp_size; ++warp) sum += device::shared_load<double>(8 * warp);
  return sum;
}

// A channel's row of G, by a block; the sum over the row of what dgamma is made of. Norms that are not trained have
// dW = diag(a) g^T x, which is stored at once.
template <class Products>
DEVICE double finish_row(const TailGradient& gradient, int index, int channel, double sum) {
  const Branch& branch = gradient.tail.branches[index];
  const BranchGradient& own = gradient.branches[index];
  const int inputs = branch.x.channels;
  const bool training = is_training(branch);
  double dot = 0.0;
#pragma unroll 1
  for (int from = 0; from < inputs; from += tile_columns) {
    const double product = sum_of_row(gradient, index, channel, from);
    const int input = from + device::thread_index();
    if (device::thread_index() >= tile_columns || input >= inputs) continue;
    const double shift = device::global_load(own.shift + input);
    const double w = weight_element<Products>(branch, channel, input);
    const double g_x =
        product + sum * (training ? shift - static_cast<double>(device::global_load(branch.mu + input)) : shift);
    dot += w * g_x;
    if (training && own.product != nullptr)
      device::global_store(own.product + static_cast<std::int64_t>(channel) * inputs + input, static_cast<float>(g_x));
    if (!training && own.dweight.data != nullptr)
      store_element<typename Products::Element>(own.dweight, channel, input,
                                                norm_scale(branch, channel) * static_cast<float>(g_x));
  }
  dot = block_sum(dot);
  if (own.own_mean != nullptr) dot += own_distance(branch, own, channel) * sum;
  // sum g (p - mean): g^T x W^T has p whole.
  return training || branch.statistics == Statistics::none ? dot
                                                           : dot - device::global_load(branch.mean + channel) * sum;
}

// A channel's vectors, from the sum of its g and the one that dgamma is made of.
template <class Element>
DEVICE void store_vectors(const TailGradient& gradient, int index, int channel, double sum, double dot) {
  const Branch& branch = gradient.tail.branches[index];
  const BranchGradient& own = gradient.branches[index];
  if (index == gradient.leader) device::global_store(gradient.sum + channel, static_cast<float>(sum));
  if (own.shared_sum != nullptr) device::global_store(own.shared_sum + channel, static_cast<float>(sum));
  const ElementType type = branch.norm.type;
  if (branch.statistics != Statistics::none) {
    const float dgamma = static_cast<float>(dot) * inverse_std(branch, channel);
    if (own.dot != nullptr) device::global_store(own.dot + channel, dgamma);
    if (own.slope != nullptr)
      device::global_store(own.slope + channel, -norm_scale(branch, channel) * inverse_std(branch, channel) /
                                                    static_cast<float>(gradient.tail.rows));
    if (own.dgamma != nullptr) store_vector_element(own.dgamma, type, channel, dgamma);
  }
  if (own.dbeta != nullptr) store_vector_element(own.dbeta, type, channel, static_cast<float>(sum));
  if (own.dbias == nullptr) return;
  // Ahead of a training norm a bias changes nothing.
  const float dbias = is_training(branch) ? 0.0f : norm_scale(branch, channel) * static_cast<float>(sum);
  device::global_store(static_cast<Element*>(own.dbias) + channel, device::from_float<Element>(dbias));
}

// By the lanes of a warp, unless there is a row to finish: that takes the block.
template <class Products, bool projections>
DEVICE void finish_channel(const TailGradient& gradient, int index, int channel) {
  const Tail& tail = gradient.tail;
  const BranchGradient& own = gradient.branches[index];
  const double sum = sum_of_partials(gradient.partial_sum, gradient.partition, tail.channels, channel);
  double dot = 0.0;
  if (own.partial_dot != nullptr) dot = sum_of_partials(own.partial_dot, gradient.partition, tail.channels, channel);
  int writer = device::lane_index();
  if constexpr (projections)
    if (own.reduction == Reduction::product) {
      dot = finish_row<Products>(gradient, index, channel, sum);
      writer = device::thread_index();
    }
  if (writer == 0) store_vectors<typename Products::Element>(gradient, index, channel, sum, dot);
}

// Channels of a branch, a block each where there are rows to finish, a warp each where not.
template <class Products, bool projections>
DEVICE void finish_vectors(const TailGradient& gradient) {
  int item = device::block_index();
#pragma unroll 1
  for (int index = 0; index < 2; ++index) {
    const BranchGradient& own = gradient.branches[index];
    const int together = channels_together(own), items = vector_items(gradient.tail, own);
#pragma unroll 1
    for (; item < items; item += device::grid_size()) {
      const int channel = together == 1 ? item : item * together + device::warp_index();
      if (channel < gradient.tail.channels) finish_channel<Products, projections>(gradient, index, channel);
    }
    item -= items;
  }
}

}  // namespace fused_resnet
