// The phase that turns partial sums into a mean and a variance a channel, and updates the running statistics.
//
// A projection's statistics take two steps with a barrier between: `combine` adds up mu and Cov of its input; `finish`
// takes mean = W mu and var = diag(W Cov W^T), 64 channels a block (docs/design.md, section 3).
#pragma once

#include <moments.cuh>
#include <weight_products.cuh>

namespace fused_resnet {

// Threads that share a sum over the ranges: so many that each has about as many loads as are under way together.
DEVICE int range_sharers(int ranges) { return ranges > 128 ? 32 : ranges > 32 ? 16 : ranges > 8 ? 4 : 1; }

// Sums over ranges, in a fixed order: `add(first, sums)` adds every `sharers`-th, from number `first` on. Threads that
// share a sum lie block_threads / sharers apart, and the first of them has the result. Called by all threads.
template <int count, class Add>
DEVICE void sum_over_ranges(int sharers, bool active, double (&sums)[count], Add add) {
  const int apart = block_threads / sharers;
  if (active) add(device::thread_index() / apart, sums);
  if (sharers == 1) return;
  const auto place = [](int thread, int i) -> SharedOffset { return 8 * (i * block_threads + thread); };
  device::block_sync();
#pragma unroll
  for (int i = 0; i < count; ++i) device::shared_store(place(device::thread_index(), i), sums[i]);
  device::block_sync();
  if (device::thread_index() >= apart) return;
  for (int sharer = 1; sharer < sharers; ++sharer)
#pragma unroll
    for (int i = 0; i < count; ++i)
      sums[i] += device::shared_load<double>(place(device::thread_index() + sharer * apart, i));
}

// mean - shift of x's channels of a tile pair, the row tile's first, in the stages behind sum_over_ranges'.
struct PairOffsets {
  DEVICE static SharedOffset offset(int i) { return 8 * (4 * block_threads + i); }

  // `owner`: one block of those that prepare a pair writes the means.
  DEVICE static void prepare(const Tail& tail, const Branch& branch, TilePair pair, bool owner) {
    const int channels = branch.x.channels, ranges = branch.partition.ranges;
    // On the diagonal, half of the channels are the other half.
    const bool diagonal = pair.row == pair.column;
    const int wanted = !diagonal ? tile_rows + tile_columns : channels > tile_rows / 2 ? tile_rows : tile_rows / 2;
    const int fours = wanted / 4, sharers = block_threads / fours;
    const int i = device::thread_index() % fours * 4;
    const int channel = i < tile_rows ? pair.row * tile_rows + i : pair.column * tile_columns + i - tile_rows;
    double sums[4] = {};
    const auto place = [&](int range) {
      return branch.partial_sum + range * static_cast<std::int64_t>(channels) + channel;
    };
    sum_over_ranges(sharers, channel < channels, sums, [&](int first, double (&to)[4]) {
      add_fours(first, ranges, sharers, channels - channel, channels % 4 == 0, to, place);
    });
    // Several share a sum, so there were barriers: the last pair's offsets have been read.
    if (device::thread_index() < fours) {
#pragma unroll
      for (int k = 0; k < 4; ++k) {
        const double mean = sums[k] / static_cast<double>(tail.rows);
        device::shared_store(offset(i + k), mean);
        if (diagonal) device::shared_store(offset(tile_rows + i + k), mean);
        if (owner && diagonal && channel + k < channels)
          device::global_store(branch.mu + channel + k,
                               static_cast<float>(device::global_load(branch.shift + channel + k) + mean));
      }
    }
    device::block_sync();
  }

  DEVICE static double row(int i) { return device::shared_load<double>(offset(i)); }
  DEVICE static double column(int i) { return device::shared_load<double>(offset(tile_rows + i)); }
};
static_assert(8 * (4 * block_threads + tile_rows + tile_columns) <= ring_bytes);

// Rows and columns of a tile pair that may exist.
DEVICE int pair_extent(int channels) { return channels < tile_columns ? channels : tile_columns; }

// Four neighbours of Cov for each thread (or group of sharers) from number `first` of the tile's on.
DEVICE void combine_elements(const Tail& tail, const Branch& branch, int number, TilePair pair, int first,
                             int sharers) {
  const int channels = branch.x.channels, fours = tiles_of(pair_extent(channels), 4);
  const int four = first + device::thread_index() % (block_threads / sharers);
  const int row = four / fours, column = 4 * (four % fours);
  const std::int64_t i = pair.row * tile_rows + row, j = pair.column * tile_columns + column;
  const bool exists = row < pair_extent(channels) && i < channels && j <= i;
  double sums[4] = {};
  const auto place = [&](int range) { return gram_tile(branch, range, number) + row * tile_columns + column; };
  sum_over_ranges(sharers, exists, sums, [&](int from, double (&to)[4]) {
    add_fours(from, branch.partition.ranges, sharers, channels - static_cast<int>(j), true, to, place);
  });
  if (!exists || device::thread_index() >= block_threads / sharers) return;
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (j + k > i) break;
    const double mean = sums[k] / static_cast<double>(tail.rows);
    const auto cov = static_cast<float>(device::fma(-PairOffsets::row(row), PairOffsets::column(column + k), mean));
    device::global_store(branch.cov + i * channels + j + k, cov);
    if (i != j + k) device::global_store(branch.cov + (j + k) * channels + i, cov);
  }
}

// Cov of a branch's input in chunks that a block adds up at once, tile pair after tile pair.
struct CovarianceChunks {
  int sharers, fours, chunk, of_pair;
  std::int64_t all;

  DEVICE explicit CovarianceChunks(const Branch& branch) : sharers(range_sharers(branch.partition.ranges)) {
    const int extent = pair_extent(branch.x.channels);
    fours = tiles_of(extent, 4);
    chunk = block_threads / sharers;
    of_pair = tiles_of(extent * fours, chunk);
    const int pairs = branch.statistics == Statistics::gram ? tile_pairs(branch.x.channels) : 0;
    all = static_cast<std::int64_t>(pairs) * of_pair;
  }
};

// Consecutive chunks to a block, of both branches together, so that it prepares few pairs.
DEVICE void combine(const Tail& tail) {
  const std::int64_t before = CovarianceChunks(tail.branches[0]).all;
  const std::int64_t all = before + CovarianceChunks(tail.branches[1]).all;
  const std::int64_t each = (all + device::grid_size() - 1) / device::grid_size();
  const std::int64_t begin = device::block_index() * each, end = begin + each < all ? begin + each : all;
  std::int64_t prepared = -1;
#pragma unroll 1
  for (std::int64_t i = begin; i < end; ++i) {
    const Branch& branch = tail.branches[i < before ? 0 : 1];
    const CovarianceChunks chunks(branch);
    const std::int64_t own = i < before ? i : i - before;
    const int number = static_cast<int>(own / chunks.of_pair),
              first = static_cast<int>(own % chunks.of_pair) * chunks.chunk;
    const TilePair pair(number);
    if (first / chunks.fours + pair.row * tile_rows >= branch.x.channels) continue;
    const std::int64_t of_both = i - own + number;
    if (of_both != prepared) PairOffsets::prepare(tail, branch, pair, first == 0);
    prepared = of_both;
    combine_elements(tail, branch, number, pair, first, chunks.sharers);
  }
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

// Channels of a group: as many as make 32 bytes of a range's partial sums. The other threads share the ranges.
constexpr int columns_group = 8;

// Combines partial means and squared distances: with d the distance of a range's mean from the first range's and n its
// count, mean = first + sum(n d) / M and M var = sum(m2) + sum(n d^2) - sum(n d)^2 / M.
template <class Element>
DEVICE void finish_columns(const Tail& tail, const Branch& branch, int group) {
  constexpr int sharers = block_threads / columns_group;
  const int channel = group * columns_group + device::thread_index() % columns_group;
  const bool exists = channel < tail.channels;
  const double first = exists ? device::global_load(branch.partial_mean + channel) : 0.0;
  const auto at = [&](const float* partial, int range) {
    return static_cast<double>(
        device::global_load(partial + range * static_cast<std::int64_t>(tail.channels) + channel));
  };
  double sums[2] = {};
  sum_over_ranges(sharers, exists, sums, [&](int from, double (&to)[2]) {
#pragma unroll 4
    for (int range = from; range < branch.partition.ranges; range += sharers) {
      const RowRange rows(tail, branch.partition, range);
      const double distance = at(branch.partial_mean, range) - first,
                   moment = static_cast<double>(rows.end - rows.begin) * distance;
      to[0] += moment;
      to[1] += device::fma(moment, distance, at(branch.partial_m2, range));
    }
  });
  if (!exists || device::thread_index() >= columns_group) return;
  const auto rows = static_cast<double>(tail.rows);
  publish<Element>(tail, branch, channel, static_cast<float>(first + sums[0] / rows),
                   static_cast<float>((sums[1] - sums[0] * sums[0] / rows) / rows));
}

// Shares of mean = W mu and var = diag(W Cov W^T), of the two rows of W that a lane has of its warp's 16.
struct RowSums {
  float mean[2] = {}, var[2] = {};

  DEVICE static int first_row() { return MatrixShare::tile().row + MatrixShare::part() * 16; }

  // Those of an item's 64 channels, of channel `thread` for each of the first threads. Called by all.
  DEVICE void join(float& whole_mean, float& whole_var) const {
    const auto at = [](int row, int column) { return scratch(2 * (row * MatrixShare::across + column)); };
    const Lane lane;
    const int column = MatrixShare::tile().column / MatrixShare::columns;
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Float2 sums{over_columns(mean[half]), over_columns(var[half])};
      if (lane.t == 0) device::shared_store(at(first_row() + half * 8 + lane.g, column), sums);
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
static_assert(2 * 4 * matrix_tile * MatrixShare::across <= scratch_bytes);

// Adds what the input channels from `column` on make of the item's statistics.
template <class Products>
DEVICE void add_statistics(const Branch& branch, const CovarianceProduct<Products>& product, int column,
                           RowSums& sums) {
  MatrixSums shares;
  shares.clear();
  product.multiply(column, shares);
  float p[matrix_columns][4];
  product.join(shares, p);
  const Lane lane;
#pragma unroll
  for (int n = 0; n < matrix_columns; ++n) {
    const int at = MatrixShare::tile().column + n * 8 + 2 * lane.t, input = column + at;
    const Float2 mu{input < branch.x.channels ? device::global_load(branch.mu + input) : 0.0f,
                    input + 1 < branch.x.channels ? device::global_load(branch.mu + input + 1) : 0.0f};
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const Float2 w = product.weights_left(RowSums::first_row() + half * 8 + lane.g, at);
      sums.mean[half] = device::fma(w.y, mu.y, device::fma(w.x, mu.x, sums.mean[half]));
      sums.var[half] = device::fma(w.y, p[n][2 * half + 1], device::fma(w.x, p[n][2 * half], sums.var[half]));
    }
  }
  device::block_sync();  // the weights have been read
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
  RowSums sums;
#pragma unroll 1
  for (int tile = part * each; tile < (part + 1) * each && tile < tiles; ++tile)
    add_statistics<Products>(branch, product, tile * matrix_tile, sums);
  float mean = 0.0f, var = 0.0f;
  sums.join(mean, var);
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
DEVICE void finish(const Tail& tail) {
  int item = device::block_index();
#pragma unroll 1
  for (int index = 0; index < 2; ++index) {
    const Branch& branch = tail.branches[index];
    if (!is_training(branch)) continue;
    const bool gram = branch.statistics == Statistics::gram;
    const int items =
        gram ? tiles_of(tail.channels, matrix_tile) * statistics_parts(branch) : tiles_of(tail.channels, columns_group);
    for (; item < items; item += device::grid_size()) {
      if (gram) {
        finish_gram<Products>(tail, branch, item);
      } else {
        finish_columns<typename Products::Element>(tail, branch, item);
      }
    }
    item -= items;
  }
}

// All of the phase.
template <class Products>
DEVICE void finish_phase(const Tail& tail) {
  if (has_gram(tail)) {
    combine(tail);
    device::grid_sync();
  }
  finish<Products>(tail);
  if (!has_statistics_parts(tail)) return;
  device::grid_sync();
  for (const Branch& branch : tail.branches) finish_parts<Products>(tail, branch);
}

}  // namespace fused_resnet
