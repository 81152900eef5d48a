// Sums over the pixels of a range of rows, column by column of a tile.
#pragma once

#include <pairs.cuh>
#include <pixels.cuh>

namespace fused_resnet {

// Floats of the scratch memory.
DEVICE SharedOffset scratch(int i) { return scratch_offset + 4 * i; }

struct RowRange {
  int begin, end;

  DEVICE RowRange(const Tail& tail, const Partition& partition, int range)
      : begin(range * partition.rows), end(tail.rows - begin < partition.rows ? tail.rows : begin + partition.rows) {}
  DEVICE int steps(int depth) const { return tiles_of(end - begin, depth); }
};

// Sums of a thread's two neighbouring columns of a stage of pixels, of which it takes a share of the pixels.
template <class Element, class Traits>
struct ColumnSums {
  static constexpr int pairs = Traits::columns / 2, shares = block_threads / pairs, pixels = Traits::depth / shares;
  struct alignas(2 * sizeof(Element)) Pair {
    Element at[2];
  };
  float totals[2] = {0.0f, 0.0f};

  DEVICE static int column() { return device::thread_index() % pairs * 2; }

  // Adds `of(value, i)` for column i of the pair, for all pixels of the operand.
  template <class Of>
  DEVICE void add(SharedOffset operand, Of of) {
    const int first = device::thread_index() / pairs * pixels;
    const SharedOffset from = operand + first * Traits::pitch + column() * static_cast<int>(sizeof(Element));
    float stage[2] = {0.0f, 0.0f};  // sums of sums: rounding grows with the longest chain
#pragma unroll
    for (int i = 0; i < pixels; ++i) {
      const auto pair = device::shared_load<Pair>(from + i * Traits::pitch);
      float values[2];
      float_pair(pair.at, 0, values);
      stage[0] += of(values[0], 0);
      stage[1] += of(values[1], 1);
    }
    totals[0] += stage[0];
    totals[1] += stage[1];
  }

  // The whole sums, of column `thread` for each of the first threads, by way of 2 KiB of shared memory that nobody uses
  // since the last barrier. Called by all.
  DEVICE float join(SharedOffset free) const {
    device::shared_store(free + 8 * device::thread_index(), Float2{totals[0], totals[1]});
    device::block_sync();
    float sum = 0.0f;
    if (device::thread_index() < Traits::columns)
#pragma unroll
      for (int share = 0; share < shares; ++share)
        sum += device::shared_load<float>(free + 4 * (share * Traits::columns + device::thread_index()));
    return sum;
  }
};

// Adds the accumulators of the warps that shared a tile's pixels to those of the first of them, in a fixed order. The
// stages must be free.
template <class Share>
DEVICE void join_parts(Accumulators& sum) {
  if constexpr (Share::parts > 1) {
    constexpr int values = warp_rows * warp_columns / device::warp_size;
    const auto place = [](int part, int i) {
      const int slab = (part - 1) * Share::tiles + Share::number();
      return static_cast<SharedOffset>(4 * ((slab * values + i) * device::warp_size + device::lane_index()));
    };
    static_assert(4 * (Share::parts - 1) * Share::tiles * values * device::warp_size <= joined_bytes);
    const auto value = [&](int i) -> float& {
      return sum.values[i / 4 / fragment_columns][i / 4 % fragment_columns][i % 4];
    };
    if (Share::part() > 0)
#pragma unroll
      for (int i = 0; i < values; ++i) device::shared_store(place(Share::part(), i), value(i));
    device::block_sync();
    if (Share::part() > 0) return;
#pragma unroll 1
    for (int part = 1; part < Share::parts; ++part)
#pragma unroll
      for (int i = 0; i < values; ++i) value(i) += device::shared_load<float>(place(part, i));
  }
}

}  // namespace fused_resnet
