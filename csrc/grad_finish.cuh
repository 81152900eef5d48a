// The backward's second phase: from partial sums to the gradients of parameters, and to what dx is multiplied from.
//
// `finish_vectors` leaves dbeta and dgamma, and G = g^T (x - m). Behind a barrier, `finish_matrices`
// takes dW = diag(a) (G - diag(dgamma / std) W Cov) and Q (docs/design.md, section 3); behind another, `finish_factors`
// makes diag(a) W and Q ready to be multiplied with. Processes that share statistics add up their sums behind
// `finish_vectors` ("Several processes" there).
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

// dW of a training norm, for a group of output channels.
template <class Products>
DEVICE void correct_weight_gradient(const TailGradient& gradient, int index, int group) {
  const Tail& tail = gradient.tail;
  const Branch& branch = tail.branches[index];
  const BranchGradient& own = gradient.branches[index];
  const int inputs = branch.x.channels, first = group * channel_group;
  const GroupColumns columns(inputs);
#pragma unroll 1
  for (int from = 0; from < inputs; from += columns.columns) {
    const int b = from + columns.column();
    float products[channel_group] = {};
    multiply_covariance<Products>(tail, branch, columns, first, b, products);
    if (b >= inputs || columns.share() > 0) continue;
    // All that is loaded, ahead of all that is stored: behind a store, a load would begin a latency of its own.
#pragma unroll
    for (int i = 0; i < channel_group; ++i) {
      const int channel = first + i;
      if (channel >= tail.channels) continue;
      const float correction = device::global_load(own.dot + channel) * inverse_std(branch, channel);
      float product = device::global_load(own.product + static_cast<std::int64_t>(channel) * inputs + b);
      if (own.own_mean != nullptr)
        product = device::fma(surplus(gradient, index, channel), device::global_load(branch.mu + b), product);
      products[i] = norm_scale(branch, channel) * device::fma(-correction, products[i], product);
    }
#pragma unroll
    for (int i = 0; i < channel_group; ++i)
      if (first + i < tail.channels) store_element<typename Products::Element>(own.dweight, first + i, b, products[i]);
  }
}

// A power of two for the largest magnitude of a row, or any where that is zero or no number: values divided by it are
// as exact as before and below 2^15, which float16 holds, and as many as possible of the smaller ones with it.
DEVICE float scale_of(float largest) {
  constexpr std::uint32_t exponent = 0x7f800000u;
  const float power = device::bits_float(device::float_bits(largest) & exponent);
  constexpr float most = 1.15292150e18f;  // 2^60, so that no quotient of two scales overflows
  constexpr float unit = 1.0f / (1 << 14);
  if (!(power > 0.0f)) return 1.0f;
  return unit * (power > most ? most : power < 1.0f / most ? 1.0f / most : power);
}

DEVICE float magnitude(float x) { return x < 0.0f ? -x : x; }

// The group's rows of a factor: `value(k, i)` of row i at the summed position k. Leaves scales and scaled, rounded
// elements; adds what `term(k)` times these make to `offsets`.
template <class Products, class Value, class Term>
DEVICE void store_factor(const Factor& to, int first, int rows, int depth, Value value, Term term,
                         float (&offsets)[channel_group]) {
  using Element = typename Products::Element;
  float scale[channel_group] = {};
#pragma unroll 1
  for (int k = device::thread_index(); k < depth; k += block_threads)
#pragma unroll
    for (int i = 0; i < channel_group; ++i)
      if (first + i < rows) {
        const float size = magnitude(value(k, i));
        scale[i] = size > scale[i] ? size : scale[i];
      }
  max_over_block(scale, group_scratch);
#pragma unroll
  for (int i = 0; i < channel_group; ++i) {
    scale[i] = scale_of(scale[i]);
    if (device::thread_index() == i && first + i < rows) device::global_store(to.scale + first + i, scale[i]);
  }
  const int pitch = static_cast<int>(to.matrix.stride_c);
#pragma unroll 1
  for (int k = device::thread_index(); k < pitch; k += block_threads) {
    const float factor = k < depth ? term(k) : 0.0f;
    float values[channel_group];
#pragma unroll
    for (int i = 0; i < channel_group; ++i) values[i] = k < depth && first + i < rows ? value(k, i) : 0.0f;
#pragma unroll
    for (int i = 0; i < channel_group; ++i) {
      if (first + i >= rows) continue;
      const float scaled = values[i] * (1.0f / scale[i]);
      float stored = device::to_float(device::from_float<Element>(Products::operand(scaled)));
      store_element<Element>(to.matrix, first + i, k, stored);
      if (to.remainder.data != nullptr) {
        const float rest = Products::operand(scaled - stored);
        store_element<Element>(to.remainder, first + i, k, rest);
        stored += device::to_float(device::from_float<Element>(rest));
      }
      offsets[i] = device::fma(factor, stored * scale[i], offsets[i]);
    }
  }
}

// Q has few rows: its columns are cut as well, for more blocks to work.
DEVICE GroupColumns quadratic_columns(int inputs) { return GroupColumns(inputs / 4); }

// Of Q's rows of a group of input channels, those columns that the block takes at a time, from `from` on.
template <class Products>
DEVICE void multiply_quadratic(const TailGradient& gradient, int index, int first, int from) {
  const Tail& tail = gradient.tail;
  const Branch& branch = tail.branches[index];
  const BranchGradient& own = gradient.branches[index];
  const int inputs = branch.x.channels;
  const float per_row = -1.0f / static_cast<float>(tail.rows);
  const GroupColumns columns = quadratic_columns(inputs);
  const int b = from + columns.column();
  float products[channel_group] = {};
  multiply_group(
      columns, tail.channels, b < inputs,
      [&](int c, int i) {
        if (first + i >= inputs) return 0.0f;
        const float factor = norm_scale(branch, c) * inverse_std(branch, c) * device::global_load(own.dot + c);
        return per_row * factor * weight_element<Products>(branch, c, first + i);
      },
      [&](int c) { return weight_element<Products>(branch, c, b); }, products);
  if (b >= inputs || columns.share() > 0) return;
#pragma unroll
  for (int i = 0; i < channel_group; ++i)
    if (first + i < inputs)
      device::global_store(own.quadratic_exact + static_cast<std::int64_t>(first + i) * inputs + b, products[i]);
}

// What a group of dx's channels is multiplied from. The offset takes the means out of both products, from the rounded
// elements that these are made of: -(S / M) folded - mu quadratic.
template <class Products>
DEVICE void fold_weight(const TailGradient& gradient, int index, int group) {
  const Tail& tail = gradient.tail;
  const Branch& branch = tail.branches[index];
  const BranchGradient& own = gradient.branches[index];
  const int first = group * channel_group, inputs = branch.x.channels;
  const bool gram = branch.statistics == Statistics::gram, scaled = !is_recomputed(own);
  const float per_row = -1.0f / static_cast<float>(tail.rows);
  float offsets[channel_group] = {};
  store_factor<Products>(
      own.folded, first, inputs, tail.channels,
      [&](int c, int i) {
        return (scaled ? norm_scale(branch, c) : 1.0f) * weight_element<Products>(branch, c, first + i);
      },
      [&](int c) { return gram ? per_row * distant_sum(gradient, index, c) : 0.0f; }, offsets);
  if (gram) {
    store_factor<Products>(
        own.quadratic, first, inputs, inputs,
        [&](int k, int i) {
          return device::global_load(own.quadratic_exact + static_cast<std::int64_t>(first + i) * inputs + k);
        },
        [&](int k) { return -device::global_load(branch.mu + k); }, offsets);
  }
  sum_over_block(offsets, group_scratch);
#pragma unroll
  for (int i = 0; i < channel_group; ++i)
    if (device::thread_index() == i && first + i < inputs) device::global_store(own.offset + first + i, offsets[i]);
}

// Of a training norm: dW, and Q.
template <class Products>
DEVICE void finish_matrices(const TailGradient& gradient) {
  int item = device::block_index();
#pragma unroll 1
  for (int index = 0; index < 2; ++index) {
    const Branch& branch = gradient.tail.branches[index];
    const BranchGradient& own = gradient.branches[index];
    const int outputs = is_corrected(branch, own) ? tiles_of(gradient.tail.channels, channel_group) : 0;
    const int groups = has_quadratic(own) ? tiles_of(branch.x.channels, channel_group) : 0;
    const int columns = quadratic_columns(branch.x.channels).columns;
    const int items = outputs + groups * tiles_of(branch.x.channels, columns);
#pragma unroll 1
    for (; item < items; item += device::grid_size()) {
      if (item < outputs) {
        correct_weight_gradient<Products>(gradient, index, item);
      } else {
        const int pass = (item - outputs) / groups;
        multiply_quadratic<Products>(gradient, index, (item - outputs - pass * groups) * channel_group, pass * columns);
      }
    }
    item -= items;
  }
}

template <class Products>
DEVICE void finish_factors(const TailGradient& gradient) {
  int item = device::block_index();
#pragma unroll 1
  for (int index = 0; index < 2; ++index) {
    if (!is_folded(gradient.branches[index])) continue;
    const int groups = tiles_of(gradient.tail.branches[index].x.channels, channel_group);
#pragma unroll 1
    for (; item < groups; item += device::grid_size()) fold_weight<Products>(gradient, index, item);
    item -= groups;
  }
}

// What follows from the vectors, of a tail with projections.
template <class Products>
DEVICE void finish_operands(const TailGradient& gradient) {
  if (has_matrices(gradient)) {
    finish_matrices<Products>(gradient);
    device::grid_sync();
  }
  finish_factors<Products>(gradient);
}

}  // namespace fused_resnet
