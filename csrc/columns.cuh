// Sums over the pixels of a range of rows, a column of a tile for each pair of threads.
#pragma once

#include <pixels.cuh>

namespace fused_resnet {

// Floats of the scratch memory.
DEVICE SharedOffset scratch(int i) { return scratch_offset + 4 * i; }

struct RowRange {
  int begin, end;

  DEVICE RowRange(const Tail& tail, const Partition& partition, int range)
      : begin(range * partition.rows), end(tail.rows - begin < partition.rows ? tail.rows : begin + partition.rows) {}
  template <class Element>
  DEVICE int steps() const {
    constexpr int depth = TileTraits<Element>::depth;
    return tiles_of(end - begin, depth);
  }
};

// A thread's column of a tile, and which half of the block it is in: the halves share a column's rows.
DEVICE int block_column() { return device::thread_index() % tile_columns; }
DEVICE int block_half() { return device::thread_index() / tile_columns; }

// Two sums for the thread's column.
template <class Element>
struct ColumnSums {
  using Traits = TileTraits<Element>;
  float totals[2] = {0.0f, 0.0f};

  // Calls `term(at, first, second)` for the thread's share of a stage's first `pixels` pixels: it adds to both sums
  // what lies `at` so many bytes from an operand's start.
  template <class Term>
  DEVICE void add(int pixels, Term term) {
    const int first = block_half() * Traits::depth / 2;
    const SharedOffset from = first * Traits::pixel_pitch + block_column() * static_cast<int>(sizeof(Element));
    float stage[2] = {0.0f, 0.0f};  // sums of sums: rounding grows with the longest chain
#pragma unroll 4
    for (int i = 0; i < Traits::depth / 2; ++i)
      if (first + i < pixels) term(from + i * Traits::pixel_pitch, stage[0], stage[1]);
    totals[0] += stage[0];
    totals[1] += stage[1];
  }

  // Adds the second half's sums to the first's, by way of 1 KiB of shared memory. Called by all threads.
  DEVICE void join(SharedOffset free) {
    const SharedOffset at = free + 8 * block_column();
    device::block_sync();
    if (block_half() == 1) {
      device::shared_store(at, totals[0]);
      device::shared_store(at + 4, totals[1]);
    }
    device::block_sync();
    if (block_half() == 0) {
      totals[0] += device::shared_load<float>(at);
      totals[1] += device::shared_load<float>(at + 4);
    }
  }
};

}  // namespace fused_resnet
