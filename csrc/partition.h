// How the work of each phase is cut into items: known to the kernels, to the launcher and to whoever allocates the
// workspace. An item is what a block does before it takes its next; its size depends on the problem alone, never on the
// grid, so that results do not depend on the GPU.
#pragma once

#include <tail.h>

#ifdef __CUDACC__
#define HOST_DEVICE __host__ __device__ inline
#else
#define HOST_DEVICE inline
#endif

namespace fused_resnet {

constexpr int tile_rows = 128;
constexpr int tile_columns = 128;
// Bytes of each operand's rows that are multiplied at a time.
constexpr int tile_depth_bytes = 64;
// Channels that a block works on together in the phases between the large ones.
constexpr int channel_group = 8;
// Blocks that a large GPU runs at the same time.
constexpr int resident_blocks = 264;
// Rows and columns of a tile of weights and covariances, where these are multiplied.
constexpr int matrix_tile = 64;

HOST_DEVICE int tiles_of(int size, int tile) { return (size - 1) / tile + 1; }

// Tiles on and below the diagonal of x^T x.
HOST_DEVICE int tile_pairs(int channels) {
  const int tiles = tiles_of(channels, tile_columns);
  return tiles * (tiles + 1) / 2;
}

// A product is in the accumulators when y is written; every other source is read there.
HOST_DEVICE bool is_product(const Branch& branch) { return branch.source == Source::projection; }

// The norm takes its statistics from the batch.
HOST_DEVICE bool is_training(const Branch& branch) { return branch.statistics > Statistics::running; }

HOST_DEVICE bool has_gram(const Tail& tail) {
  return tail.branches[0].statistics == Statistics::gram || tail.branches[1].statistics == Statistics::gram;
}

// Tiles of the moments phase that cover one range of rows.
HOST_DEVICE int moments_tiles(const Tail& tail, const Branch& branch) {
  if (branch.statistics == Statistics::gram) return tile_pairs(branch.x.channels);
  return tiles_of(tail.channels, tile_columns);
}

HOST_DEVICE int moments_items(const Tail& tail, const Branch& branch) {
  return is_training(branch) ? moments_tiles(tail, branch) * branch.partition.ranges : 0;
}

// Items that share the sums over input channels for 64 output channels' statistics, a tile of W Cov each. Of few inputs
// one item has all: shared, they would cost a barrier more.
HOST_DEVICE int statistics_parts(const Branch& branch) {
  const bool gram = branch.statistics == Statistics::gram;
  return gram && branch.x.channels > 2 * matrix_tile ? tiles_of(branch.x.channels, matrix_tile) : 1;
}

HOST_DEVICE bool has_statistics_parts(const Tail& tail) {
  return statistics_parts(tail.branches[0]) > 1 || statistics_parts(tail.branches[1]) > 1;
}

// Groups of channels whose statistics `finish` makes, or shares of these.
inline Work statistics_work(const Tail& tail) {
  const auto items = [&](const Branch& branch) {
    if (!is_training(branch)) return 0;
    if (branch.statistics != Statistics::gram) return tiles_of(tail.channels, channel_group);
    return tiles_of(tail.channels, matrix_tile) * statistics_parts(branch);
  };
  const int before = items(tail.branches[0]), all = before + items(tail.branches[1]);
  return {before, all, all};
}

// Tiles of both branches.
inline int moments_tiles(const Tail& tail) {
  int tiles = 0;
  for (const Branch& branch : tail.branches) tiles += is_training(branch) ? moments_tiles(tail, branch) : 0;
  return tiles;
}

// Fits: 2^31 tiles would be 64 TiB of y.
HOST_DEVICE int apply_items(const Tail& tail) {
  return tiles_of(tail.rows, tile_rows) * tiles_of(tail.channels, tile_columns);
}

// Ranges of rows for a phase whose ranges have so many tiles: an item each for all blocks that a large GPU runs at the
// same time, or as many each as keep sums in float32 short. One range more, and blocks would wait for the last ones.
inline Partition partition_rows(const Tail& tail, int tiles) {
  constexpr int longest = 4096;
  for (int each = 1;; ++each) {
    const int ranges = tiles <= resident_blocks * each ? resident_blocks * each / tiles : 1;
    const int rows = tiles_of(tiles_of(tail.rows, ranges), tile_rows) * tile_rows;
    if (rows <= longest) return {rows, tiles_of(tail.rows, rows)};
  }
}

}  // namespace fused_resnet
