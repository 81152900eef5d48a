// The phase that turns partial sums into a mean and a variance a channel, and updates the running statistics.
//
// A projection's statistics take two steps with a barrier between: `combine` adds up mu and Cov of its input; `finish`
// takes mean = W mu and var = diag(W Cov W^T), a group of channels a block (docs/design.md, section 3).
#pragma once

#include <moments.cuh>
#include <reductions.cuh>

namespace fused_resnet {

// Threads that share a sum over the ranges: so many that each has about as many loads as are under way together.
DEVICE int range_sharers(int ranges) { return ranges > 128 ? 32 : ranges > 32 ? 16 : ranges > 8 ? 4 : 1; }

// The sum of `term(range)` over all ranges, given by the first of the threads that share it, which lie
// block_threads / sharers apart. Called by all threads; fixes the order.
template <class Term>
DEVICE double sum_over_ranges(int ranges, int sharers, bool active, Term term) {
  const int apart = block_threads / sharers;
  double sum = 0.0;
  if (active) {
#pragma unroll 8
    for (int range = device::thread_index() / apart; range < ranges; range += sharers) sum += term(range);
  }
  if (sharers == 1) return sum;
  const SharedOffset own = 8 * device::thread_index();
  device::block_sync();
  device::shared_store(own, sum);
  device::block_sync();
  if (device::thread_index() >= apart) return 0.0;
  for (int i = 1; i < sharers; ++i) sum += device::shared_load<double>(own + 8 * i * apart);
  return sum;
}

// mean - shift of x's channels of a tile pair, the row tile's first, in the stages behind sum_over_ranges'.
struct PairOffsets {
  DEVICE static SharedOffset offset(int i) { return 8 * (block_threads + i); }

  // `owner`: one block of those that prepare a pair writes the means.
  DEVICE static void prepare(const Tail& tail, const Branch& branch, TilePair pair, bool owner) {
    const int channels = branch.x.channels, ranges = branch.partition.ranges;
    // On the diagonal, half of the channels are the other half.
    const bool diagonal = pair.row == pair.column;
    const int wanted = !diagonal ? tile_rows + tile_columns : channels > tile_rows / 2 ? tile_rows : tile_rows / 2;
    const int sharers = block_threads / wanted;
    const int i = device::thread_index() % wanted;
    const int channel = i < tile_rows ? pair.row * tile_rows + i : pair.column * tile_columns + i - tile_rows;
    const double sum = sum_over_ranges(ranges, sharers, channel < channels, [&](int range) {
      return static_cast<double>(
          device::global_load(branch.partial_sum + range * static_cast<std::int64_t>(channels) + channel));
    });
    device::block_sync();  // the last pair's have been read
    if (device::thread_index() < wanted) {
      const double mean = sum / static_cast<double>(tail.rows);
      device::shared_store(offset(i), mean);
      if (diagonal) device::shared_store(offset(tile_rows + i), mean);
      if (owner && diagonal && channel < channels)
        device::global_store(branch.mu + channel,
                             static_cast<float>(device::global_load(branch.shift + channel) + mean));
    }
    device::block_sync();
  }

  DEVICE static double row(int i) { return device::shared_load<double>(offset(i)); }
  DEVICE static double column(int i) { return device::shared_load<double>(offset(tile_rows + i)); }
};
static_assert(8 * (block_threads + tile_rows + tile_columns) <= ring_bytes);

// Rows and columns of a tile pair that may exist.
DEVICE int pair_extent(int channels) { return channels < tile_columns ? channels : tile_columns; }

// One element of Cov for each thread (or group of sharers) from `first` of the tile on.
DEVICE void combine_elements(const Tail& tail, const Branch& branch, int number, TilePair pair, int first,
                             int sharers) {
  const int channels = branch.x.channels, extent = pair_extent(channels);
  const int element = first + device::thread_index() % (block_threads / sharers);
  const int row = element / extent, column = element % extent;
  const std::int64_t i = pair.row * tile_rows + row, j = pair.column * tile_columns + column;
  const bool exists = row < extent && i < channels && j <= i;
  const double sum = sum_over_ranges(branch.partition.ranges, sharers, exists, [&](int range) {
    return static_cast<double>(device::global_load(gram_tile(branch, range, number) + row * tile_columns + column));
  });
  if (!exists || device::thread_index() >= block_threads / sharers) return;
  const double mean = sum / static_cast<double>(tail.rows);
  const auto cov = static_cast<float>(device::fma(-PairOffsets::row(row), PairOffsets::column(column), mean));
  device::global_store(branch.cov + i * channels + j, cov);
  if (i != j) device::global_store(branch.cov + j * channels + i, cov);
}

DEVICE void combine_branch(const Tail& tail, const Branch& branch) {
  const int sharers = range_sharers(branch.partition.ranges), extent = pair_extent(branch.x.channels);
  const int chunk = block_threads / sharers, chunks = tiles_of(extent * extent, chunk);
  const int pairs = tile_pairs(branch.x.channels);
  // Consecutive chunks to a block, so that it prepares few pairs.
  const std::int64_t each = (static_cast<std::int64_t>(pairs) * chunks + device::grid_size() - 1) / device::grid_size();
  int prepared = -1;
  for (std::int64_t i = device::block_index() * each; i < (device::block_index() + 1) * each; ++i) {
    const int number = static_cast<int>(i / chunks);
    if (number >= pairs) break;
    const int first = static_cast<int>(i % chunks) * chunk;
    const TilePair pair(number);
    if (first / extent + pair.row * tile_rows >= branch.x.channels) continue;
    if (number != prepared) PairOffsets::prepare(tail, branch, pair, first == 0);
    prepared = number;
    combine_elements(tail, branch, number, pair, first, sharers);
  }
}

DEVICE void combine(const Tail& tail) {
#pragma unroll 1
  for (int index = 0; index < 2; ++index)
    if (tail.branches[index].statistics == Statistics::gram) combine_branch(tail, tail.branches[index]);
}

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

// Channels of a group, one a lane; the warps share the ranges.
constexpr int columns_group = device::warp_size;

// Combines partial means and squared distances: with d the distance of a range's mean from the first range's and n its
// count, mean = first + sum(n d) / M and M var = sum(m2) + sum(n d^2) - sum(n d)^2 / M.
template <class Element>
DEVICE void finish_columns(const Tail& tail, const Branch& branch, int group) {
  constexpr int sharers = block_threads / columns_group;
  const int channel = group * columns_group + device::thread_index() % columns_group;
  const bool exists = channel < tail.channels;
  const double first = exists ? device::global_load(branch.partial_mean + channel) : 0.0;
  const int ranges = branch.partition.ranges;
  const auto count = [&](int range) {
    const RowRange rows(tail, branch.partition, range);
    return static_cast<double>(rows.end - rows.begin);
  };
  const auto at = [&](const float* partial, int range) {
    return static_cast<double>(
        device::global_load(partial + range * static_cast<std::int64_t>(tail.channels) + channel));
  };
  const double sum = sum_over_ranges(
      ranges, sharers, exists, [&](int range) { return count(range) * (at(branch.partial_mean, range) - first); });
  const double squares = sum_over_ranges(ranges, sharers, exists, [&](int range) {
    const double distance = at(branch.partial_mean, range) - first;
    return device::fma(count(range) * distance, distance, at(branch.partial_m2, range));
  });
  if (!exists || device::thread_index() >= columns_group) return;
  const auto rows = static_cast<double>(tail.rows);
  publish<Element>(tail, branch, channel, static_cast<float>(first + sum / rows),
                   static_cast<float>((squares - sum * sum / rows) / rows));
}

// Mean W mu and variance diag(W Cov W^T) of a group of output channels.
template <class Products>
DEVICE void finish_gram(const Tail& tail, const Branch& branch, int group) {
  const int first = group * channel_group, inputs = branch.x.channels;
  float mean[channel_group] = {}, var[channel_group] = {};
  const GroupColumns own(inputs);
  for (int from = 0; from < inputs; from += own.columns) {
    const int b = from + own.column();
    float product[channel_group] = {};
    multiply_covariance<Products>(tail, branch, own, first, b, product);
    if (b >= inputs || own.share() > 0) continue;
    const float mu = device::global_load(branch.mu + b);
#pragma unroll
    for (int i = 0; i < channel_group; ++i) {
      if (first + i >= tail.channels) continue;
      const float w = weight_element<Products>(branch, first + i, b);
      mean[i] = device::fma(w, mu, mean[i]);
      var[i] = device::fma(w, product[i], var[i]);
    }
  }
  sum_over_block(mean, group_scratch);
  sum_over_block(var, group_scratch);
#pragma unroll
  for (int i = 0; i < channel_group; ++i)
    if (device::thread_index() == i && first + i < tail.channels)
      publish<typename Products::Element>(tail, branch, first + i, mean[i], var[i]);
}

template <class Products>
DEVICE void finish(const Tail& tail) {
  int item = device::block_index();
#pragma unroll 1
  for (int index = 0; index < 2; ++index) {
    const Branch& branch = tail.branches[index];
    if (!is_training(branch)) continue;
    const bool gram = branch.statistics == Statistics::gram;
    const int groups = tiles_of(tail.channels, gram ? channel_group : columns_group);
    for (; item < groups; item += device::grid_size()) {
      if (gram) {
        finish_gram<Products>(tail, branch, item);
      } else {
        finish_columns<typename Products::Element>(tail, branch, item);
      }
    }
    item -= groups;
  }
}

}  // namespace fused_resnet
