// The phase that turns partial sums into a mean and a variance a channel, and updates the running statistics.
//
// A projection's statistics take two steps with a barrier between: `combine` adds up mu and Cov of its input; `finish`
// takes mean = W mu and var = diag(W Cov W^T), 64 channels a block (docs/design.md, section 3).
#pragma once

#include <covariance.cuh>
#include <weight_products.cuh>

namespace fused_resnet {

// Leaves a channel's statistics, and takes them into the running ones.
template <class Element>
DEVICE void publish(const Tail& tail, const Branch& branch, int channel, float mean, float var) {
  var = var < 0.0f ? 0.0f : var;  // rounding; NaN stays NaN
  device::global_store(branch.mean + channel, mean);
  device::global_store(branch.var + channel, var);
  const Norm& norm = branch.norm;
  if (norm.running_mean == nullptr) return;
  const float weight = device::global_load(branch.momentum);
  mean += projection_bias<Element>(branch, channel);
  const float unbiased = var * static_cast<float>(static_cast<double>(tail.rows) / static_cast<double>(tail.rows - 1));
  const float running_mean = vector_element(norm.running_mean, norm.type, channel, 0.0f);
  const float running_var = vector_element(norm.running_var, norm.type, channel, 0.0f);
  store_vector_element(norm.running_mean, norm.type, channel,
                       device::fma(weight, mean, (1.0f - weight) * running_mean));
  store_vector_element(norm.running_var, norm.type, channel,
                       device::fma(weight, unbiased, (1.0f - weight) * running_var));
}

// Combines partial means and squared distances: with d the distance of a range's mean from the first range's and n its
// count, mean = first + sum(n d) / M and M var = sum(m2) + sum(n d^2) - sum(n d)^2 / M. A group's channels are 32 bytes
// of a range's partial sums; a block's threads share the ranges.
template <class Element>
DEVICE void finish_columns(const Tail& tail, const Branch& branch, int group) {
  constexpr int sharers = block_threads / channel_group;
  const int channel = group * channel_group + device::thread_index() % channel_group;
  const bool exists = channel < tail.channels;
  const double first = exists ? device::global_load(branch.partial_mean + channel) : 0.0;
  const auto at = [&](const float* partial, int range) {
    return static_cast<double>(
        device::global_load(partial + range * static_cast<std::int64_t>(tail.channels) + channel));
  };
  double sums[2] = {};
  if (exists)
#pragma unroll 4
    for (int range = device::thread_index() / channel_group; range < branch.partition.ranges; range += sharers) {
      const RowRange rows(tail, branch.partition, range);
      const double distance = at(branch.partial_mean, range) - first,
                   moment = static_cast<double>(rows.end - rows.begin) * distance;
      sums[0] += moment;
      sums[1] += device::fma(moment, distance, at(branch.partial_m2, range));
    }
  device::block_sync();  // the last group's sums have been read
  leave_sums(sums, channel_group, 0);
  device::block_sync();
  if (!exists || device::thread_index() >= channel_group) return;
  joined_sums(sums, channel_group, 0);
  const auto rows = static_cast<double>(tail.rows);
  publish<Element>(tail, branch, channel, static_cast<float>(first + sums[0] / rows),
                   static_cast<float>((sums[1] - sums[0] * sums[0] / rows) / rows));
}

// Shares of mean = W mu and var = diag(W Cov W^T), of the rows of W that a lane has: two of each 16 of its warp's.
struct RowSums {
  static constexpr int count = 2 * HalfSums::rows;
  float mean[count] = {}, var[count] = {};

  DEVICE static int row(int i) { return (MatrixShare::part() * HalfSums::rows * 2 + i) * 8 + Lane().g; }

  // Adds them to those of channel `thread`, for each of the first threads. Called by all.
  DEVICE void join(float& whole_mean, float& whole_var) const {
    const auto at = [](int row, int column) { return scratch(2 * (row * MatrixShare::across + column)); };
    const int column = MatrixShare::tile().column / MatrixShare::columns;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const Float2 sums{over_columns(mean[i]), over_columns(var[i])};
      if (Lane().t == 0) device::shared_store(at(row(i), column), sums);
    }
    device::block_sync();
    if (device::thread_index() >= matrix_tile) return;
#pragma unroll
    for (int i = 0; i < MatrixShare::across; ++i) {
      const auto sums = device::shared_load<Float2>(at(device::thread_index(), i));
      whole_mean += sums.x;
      whole_var += sums.y;
    }
  }

 private:
  DEVICE static float over_columns(float x) {
    x += device::warp_exchange(x, 1);
    return x + device::warp_exchange(x, 2);
  }
};
constexpr int row_sums_floats = 2 * matrix_tile * MatrixShare::across;

// mu of the input channels of a tile, on its way while their products are made.
struct TileMeans {
  DEVICE static SharedOffset place(int i) { return scratch(row_sums_floats + i); }
  static_assert(4 * (row_sums_floats + matrix_tile) <= scratch_bytes);

  // Starts the copy from input channel `first` on; it is there when the next pipeline has ended.
  DEVICE static void copy(const Branch& branch, int first) {
    const int i = device::thread_index();
    if (i < matrix_tile) device::copy_async_4(place(i), branch.mu + first + i, first + i < branch.x.channels ? 4 : 0);
  }
  DEVICE static Float2 pair(int i) { return device::shared_load<Float2>(place(i)); }
};

// Adds what the input channels from `column` on make of the statistics of an item's 64 channels, of channel `thread`
// for each of the first threads.
template <class Products>
DEVICE void add_statistics(const Branch& branch, const CovarianceProduct<Products>& product, int column, float& mean,
                           float& var) {
  MatrixSums shares;
  shares.clear();
  TileMeans::copy(branch, column);
  product.multiply(column, shares);
  const HalfSums p = product.join(shares);
  RowSums sums;
#pragma unroll
  for (int n = 0; n < matrix_columns; ++n) {
    const int at = MatrixShare::tile().column + n * 8 + 2 * Lane().t;
    const Float2 mu = TileMeans::pair(at);
#pragma unroll
    for (int i = 0; i < RowSums::count; ++i) {
      const Float2 w = product.weights_left(RowSums::row(i), at);
      const float* pair = &p.values[i / 2][n][i % 2 * 2];
      sums.mean[i] = device::fma(w.y, mu.y, device::fma(w.x, mu.x, sums.mean[i]));
      sums.var[i] = device::fma(w.y, pair[1], device::fma(w.x, pair[0], sums.var[i]));
    }
  }
  sums.join(mean, var);
}

DEVICE float* statistics_part(const Tail& tail, const Branch& branch, int part, int channel) {
  return branch.partial_statistics + 2 * static_cast<std::int64_t>(part) * tail.channels + channel;
}

// Mean and variance of 64 output channels, or their share of these.
template <class Products>
DEVICE void finish_gram(const Tail& tail, const Branch& branch, int item) {
  const int parts = statistics_parts(branch), group = item / parts, part = item - group * parts;
  const int tiles = tiles_of(branch.x.channels, matrix_tile), each = tiles_of(tiles, parts);
  const CovarianceProduct<Products> product{tail, branch, group * matrix_tile};
  float mean = 0.0f, var = 0.0f;
#pragma unroll 1
  for (int tile = part * each; tile < (part + 1) * each && tile < tiles; ++tile)
    add_statistics<Products>(branch, product, tile * matrix_tile, mean, var);
  const int channel = group * matrix_tile + device::thread_index();
  if (device::thread_index() >= matrix_tile || channel >= tail.channels) return;
  if (parts == 1) return publish<typename Products::Element>(tail, branch, channel, mean, var);
  device::global_store(statistics_part(tail, branch, part, channel), mean);
  device::global_store(statistics_part(tail, branch, part, channel) + tail.channels, var);
}

// Adds up what items have left of a channel's statistics.
template <class Products>
DEVICE void finish_parts(const Tail& tail, const Branch& branch) {
  const int parts = statistics_parts(branch);
  if (parts == 1) return;
#pragma unroll 1
  for (int channel = device::block_index() * block_threads + device::thread_index(); channel < tail.channels;
       channel += device::grid_size() * block_threads) {
    float mean = 0.0f, var = 0.0f;
#pragma unroll 4
    for (int part = 0; part < parts; ++part) {
      mean += device::global_load(statistics_part(tail, branch, part, channel));
      var += device::global_load(statistics_part(tail, branch, part, channel) + tail.channels);
    }
    publish<typename Products::Element>(tail, branch, channel, mean, var);
  }
}

template <class Products>
DEVICE void finish(const Tail& tail, const Work& work) {
#pragma unroll 1
  for (int item = device::block_index(); item < work.tiles; item += device::grid_size()) {
    const bool of_first = item < work.tiles_before;
    const Branch& branch = tail.branches[of_first ? 0 : 1];
    const int own = of_first ? item : item - work.tiles_before;
    if (branch.statistics == Statistics::gram) {
      finish_gram<Products>(tail, branch, own);
    } else {
      finish_columns<typename Products::Element>(tail, branch, own);
    }
  }
}

// All of the phase.
template <class Products>
DEVICE void finish_phase(const Tail& tail, const Work& work) {
  if (has_gram(tail)) {
    combine(tail);
    device::grid_sync();
  }
  finish<Products>(tail, work);
  if (!has_statistics_parts(tail)) return;
  device::grid_sync();
  for (const Branch& branch : tail.branches) finish_parts<Products>(tail, branch);
}

}  // namespace fused_resnet
