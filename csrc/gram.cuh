// x^T x of a range of rows, about a shift near the mean; and g^T x's share of that (grad_reduce.cuh).
#pragma once

#include <columns.cuh>
#include <products.cuh>

namespace fused_resnet {

// Rows of x, spread over all of it, that decide on a channel's shift.
constexpr int sampled_rows = 16;

// A value near the channel's mean: that of some rows. Where x - shift must be exact in x's type, it is one of x's
// values, as a difference is exact if x / 2 <= shift <= 2 x (Sterbenz). If any sampled value is further away, the shift
// is 0: the spread is comparable with the mean then, and no accuracy is at stake.
template <class Products>
DEVICE float channel_shift(const Tail& tail, const Activations& x, int channel) {
  using Element = typename Products::Element;
  constexpr int batch = 8;  // loads that are under way at the same time
  static_assert(sampled_rows % batch == 0);
  float first = 0.0f, sum = 0.0f;
  bool near = true;
#pragma unroll 1
  for (int from = 0; from < sampled_rows; from += batch) {
    Element loaded[batch];
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      const std::int64_t row = static_cast<std::int64_t>(tail.rows - 1) * (from + i) / (sampled_rows - 1);
      loaded[i] = device::global_load(row_pointer<Element>(tail, x, static_cast<int>(row)) + channel * x.stride_c);
    }
#pragma unroll
    for (int i = 0; i < batch; ++i) {
      const float value = Products::operand(device::to_float(loaded[i]));
      if (from + i == 0) first = value;
      near = near && device::magnitude(value - first) <= 0.5f * device::magnitude(first);
      sum += value;
    }
  }
  if constexpr (Products::exact_shift_needed) return near ? first : 0.0f;
  return sum - sum == 0.0f ? sum / sampled_rows : 0.0f;
}

// Tile (row, column), column <= row, of the symmetric product: number row (row + 1) / 2 + column.
struct TilePair {
  int row, column;

  DEVICE explicit TilePair(int pair) : row(0), column(pair) {
    while (column > row) column -= ++row;
  }
};

DEVICE float* gram_tile(const Branch& branch, int range, int pair) {
  return branch.partial_gram +
         (static_cast<std::int64_t>(range) * tile_pairs(branch.x.channels) + pair) * (tile_rows * tile_columns);
}

// Where a tile's element lies: blocks of 4 x 8 side by side, since those who add up the ranges take one, or neighbours.
DEVICE int gram_element(int row, int column) {
  return row / 4 * (4 * tile_columns) + column / 8 * 32 + row % 4 * 8 + column % 8;
}

// Writes the part of the tile that exists; `tile` is the warp's, whose columns go around from `first` on. `element`
// tells where an element lies.
template <class Place>
DEVICE void store_partial_product(const Accumulators& sum, WarpTile tile, int first, int rows, int columns, float* to,
                                  Place element) {
  const Lane lane;
#pragma unroll
  for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
    for (int n = 0; n < fragment_columns; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = tile.row + m * 16 + half * 8 + lane.g, column = tile.column + (n * 8 ^ first) + 2 * lane.t;
        if (row >= rows || column >= columns) continue;
        const float* pair = &sum.values[m][n][2 * half];
        device::global_store(reinterpret_cast<Float2*>(to + element(row, column)), Float2{pair[0], pair[1]});
      }
}

// Makes the stage's pixels ready for Products::transposed: shifts them where that happens in place, and makes pixels
// that do not exist count nothing. Says whether anything was done, that is, whether a barrier must follow.
template <class Products, class Traits>
DEVICE bool prepare_pixels(SharedOffset stage, int pixels, SharedOffset shifts) {
  using Element = typename Products::Element;
  if (!Products::shifted_in_place && pixels >= Traits::depth) return false;
  const int column = device::thread_index() % Traits::columns;
  const float shift = device::shared_load<float>(shifts + 4 * column);
#pragma unroll 2
  for (int pixel = device::thread_index() / Traits::columns; pixel < Traits::depth;
       pixel += block_threads / Traits::columns) {
    const SharedOffset at = stage + pixel * Traits::pitch + column * static_cast<int>(sizeof(Element));
    if constexpr (Products::shifted_in_place) {
      const float x = Products::operand(device::shared_load<float>(at));
      device::shared_store(at, pixel < pixels ? x - shift : 0.0f);
    } else if (pixel >= pixels) {
      device::shared_store(at, device::from_float<Element>(shift));
    }
  }
  return true;
}

// Whether any of so many shifts, a multiple of a warp's lanes, is not zero. All lanes of the warp take part.
DEVICE bool any_shift(SharedOffset shifts, int count) {
  float largest = 0.0f;
#pragma unroll 1
  for (int i = device::lane_index(); i < count; i += device::warp_size)
    largest += device::magnitude(device::shared_load<float>(shifts + 4 * i));
#pragma unroll
  for (int mask = 1; mask < device::warp_size; mask *= 2) largest += device::warp_exchange(largest, mask);
  return largest != 0.0f;
}

// Which channels an item of x^T x multiplies: of a pair of tiles, which may be one tile twice.
struct GramItem {
  int range, number;
  TilePair pair;

  DEVICE GramItem(const Branch& branch, int item)
      : range(item / tile_pairs(branch.x.channels)),
        number(item - range * tile_pairs(branch.x.channels)),
        pair(number) {}
  DEVICE bool diagonal() const { return pair.row == pair.column; }
  DEVICE int rows() const { return pair.row * tile_rows; }
  DEVICE int columns() const { return pair.column * tile_columns; }
};

// Puts the shifts of the row tile's channels into scratch memory, then those of the column tile's; zeros where both are
// one. Says whether any is not zero.
template <class Products>
DEVICE bool prepare_shifts(const Tail& tail, const Branch& branch, const GramItem& item) {
  const int thread = device::thread_index(), column = thread % tile_columns;
  const int channel = (thread < tile_columns ? item.rows() : item.columns()) + column;
  const bool exists = channel < branch.x.channels && (thread < tile_columns || !item.diagonal());
  const float shift = exists ? channel_shift<Products>(tail, branch.x, channel) : 0.0f;
  device::shared_store(scratch(thread), shift);
  if (item.range == 0 && item.diagonal() && thread < tile_columns && exists)
    device::global_store(branch.shift + channel, shift);
  device::block_sync();
  return any_shift(scratch(0), block_threads);
}

// Sums of x - shift that an item on the diagonal leaves.
template <class Sums>
DEVICE void store_column_sums(const Branch& branch, const GramItem& item, const Sums& sums) {
  const float sum = sums.join(joined_columns);
  const int channel = item.rows() + device::thread_index();
  if (device::thread_index() < tile_columns && channel < branch.x.channels)
    device::global_store(branch.partial_sum + static_cast<std::int64_t>(item.range) * branch.x.channels + channel, sum);
}

// A stage of one tile of channels or, of a pair of different ones, of both.
template <class Products, int width, bool diagonal>
DEVICE void gram_item(const Tail& tail, const Branch& branch, const GramItem& item) {
  using Element = typename Products::Element;
  using Traits = PixelTraits<Element, width>;
  using Warps = WarpShare<width, width>;
  constexpr int pixels = Traits::depth / Warps::parts, operands = diagonal ? 1 : 2;
  constexpr int bytes = operands * (width == wide ? operand_bytes : Traits::bytes);
  using Ring = RingOf<ring_bytes / bytes, bytes>;
  const Activations& x = branch.x;
  const RowRange rows(tail, branch.partition, item.range);
  const SharedOffset a_shifts = scratch(0), b_shifts = scratch(diagonal ? 0 : tile_rows);
  const bool shifted = prepare_shifts<Products>(tail, branch, item);

  const WarpTile tile = Warps::tile();
  const bool above_diagonal = diagonal && tile.column > tile.row + warp_rows - 1;
  const bool work = !above_diagonal && item.rows() + tile.row < x.channels && item.columns() + tile.column < x.channels;
  constexpr bool square = width == warp_columns;  // each warp's rows are among its columns
  const SharedOffset part = Warps::part() * pixels * Traits::pitch;
  Accumulators sum;
  sum.clear();
  ColumnSums<Element, Traits> columns;
  const bool dense = DenseStages<Element, Traits>::takes(x);
  DenseStages<Element, Traits> a_stages(x, rows.begin, item.rows()), b_stages(x, rows.begin, item.columns());
  pipeline<Ring>(
      rows.steps(Traits::depth),
      [&](int step, SharedOffset stage) {
        const int row = rows.begin + step * Traits::depth;
        if (dense) {
          const SharedOffset chunk = stage + PixelChunk<Traits>(device::thread_index(), 0).offset();
          a_stages.copy(rows.end - row, chunk);
          if constexpr (!diagonal) b_stages.copy(rows.end - row, chunk + operand_bytes);
          return;
        }
        copy_pixels<Element, Traits>(tail, x, row, rows.end, item.rows(), stage);
        if constexpr (!diagonal)
          copy_pixels<Element, Traits>(tail, x, row, rows.end, item.columns(), stage + operand_bytes);
      },
      [&](int step, SharedOffset stage) {
        const int left = rows.end - rows.begin - step * Traits::depth;
        const SharedOffset b = diagonal ? stage : stage + operand_bytes;
        bool prepared = prepare_pixels<Products, Traits>(stage, left, a_shifts);
        if constexpr (!diagonal) prepared = prepare_pixels<Products, Traits>(b, left, b_shifts);
        if (prepared) device::block_sync();
        if constexpr (diagonal) {
          const auto shifts = device::shared_load<Float2>(a_shifts + 4 * columns.column());
          columns.add(stage, [&](float value, int i) {
            return Products::shifted_in_place ? value : value - (i == 0 ? shifts.x : shifts.y);
          });
        }
        if (!work) return;
        if constexpr (square) {
          Products::template square<pixels, Traits::pitch>(sum, stage + part, tile, a_shifts, shifted);
        } else {
          Products::template transposed<true, pixels, Traits::pitch>(sum, stage + part, b + part, tile, a_shifts,
                                                                     b_shifts, shifted);
        }
      });
  join_parts<Warps>(sum);
  if (work && Warps::part() == 0)
    store_partial_product(sum, tile, square ? Products::first_column(tile) : 0, x.channels - item.rows(),
                          x.channels - item.columns(), gram_tile(branch, item.range, item.number),
                          [](int row, int column) { return gram_element(row, column); });
  if constexpr (diagonal) store_column_sums(branch, item, columns);
}

template <class Products>
DEVICE void gram_item(const Tail& tail, const Branch& branch, int number) {
  const GramItem item(branch, number);
  if (branch.x.channels <= narrow) return gram_item<Products, narrow, true>(tail, branch, item);
  if (item.diagonal()) return gram_item<Products, wide, true>(tail, branch, item);
  gram_item<Products, wide, false>(tail, branch, item);
}

}  // namespace fused_resnet
