// The phase that reads the inputs of training norms once and leaves partial sums, one for each range of rows.
//
//   columns   mean and sum of squared distances of a direct source's channels
//   gram      (x - shift)^T (x - shift) of a projection's input, 128 x 128 channels an item, on and below the diagonal;
//             the items on the diagonal also sum the columns
//   product   p = x W^T, written, with the columns' means and squared distances taken from the accumulators
//
// Sums are float32 over a bounded number of rows; `finish.cuh` combines them in double, in the order of the ranges. All
// are taken about a shift near the mean, so that little cancels where the mean is large against the spread.
#pragma once

#include <apply.cuh>
#include <columns.cuh>

namespace fused_resnet {

// Rows of x, spread over all of it, that decide on a channel's shift.
constexpr int sampled_rows = 16;

// A value near the channel's mean: that of some rows. Where x - shift must be exact in x's type, it is one of x's
// values, as a difference is exact if x / 2 <= shift <= 2 x (Sterbenz). If any sampled value is further away, the shift
// is 0: the spread is comparable with the mean then, and no accuracy is at stake.
template <class Products>
DEVICE float channel_shift(const Tail& tail, const Activations& x, int channel) {
  using Element = typename Products::Element;
  float first = 0.0f, sum = 0.0f;
  bool near = true;
#pragma unroll 4
  for (int i = 0; i < sampled_rows; ++i) {
    const int row = static_cast<int>(static_cast<std::int64_t>(tail.rows - 1) * i / (sampled_rows - 1));
    const Element* pointer = row_pointer<Element>(tail, x, row) + channel * x.stride_c;
    const float value = Products::operand(device::to_float(device::global_load(pointer)));
    if (i == 0) first = value;
    const float distance = value < first ? first - value : value - first;
    near = near && distance <= 0.5f * (first < 0.0f ? -first : first);
    sum += value;
  }
  if constexpr (Products::exact_shift_needed) return near ? first : 0.0f;
  return sum - sum == 0.0f ? sum / sampled_rows : 0.0f;
}

// Sums of x - shift and of its squares.
template <class Products>
struct ShiftedSums {
  using Element = typename Products::Element;
  ColumnSums<Element> sums;

  // Adds the first `pixels` pixels of the operand.
  DEVICE void add(SharedOffset operand, int pixels, float shift) {
    sums.add(pixels, [&](SharedOffset at, float& sum, float& squares) {
      const float value = device::to_float(device::shared_load<Element>(operand + at)) - shift;
      sum += value;
      squares = device::fma(value, value, squares);
    });
  }
};

// Writes a channel's partial mean and squared distances of a range.
DEVICE void store_partial(const Tail& tail, const Branch& branch, int range, int channel, float mean, float m2) {
  const std::int64_t to = static_cast<std::int64_t>(range) * tail.channels + channel;
  device::global_store(branch.partial_mean + to, mean);
  device::global_store(branch.partial_m2 + to, m2 < 0.0f ? 0.0f : m2);
}

template <class Products>
DEVICE void columns_item(const Tail& tail, const Branch& branch, int item) {
  using Element = typename Products::Element;
  constexpr int depth = TileTraits<Element>::depth;
  const int tiles = tiles_of(tail.channels, tile_columns);
  const int range = item / tiles;
  const int first = (item - range * tiles) * tile_columns;
  const RowRange rows(tail, branch.partition, range);
  const int channel = first + block_column();
  const float shift = channel < tail.channels ? channel_shift<Products>(tail, branch.x, channel) : 0.0f;
  ShiftedSums<Products> columns;
  pipeline(
      rows.steps<Element>(),
      [&](int step, SharedOffset stage) {
        copy_pixels<Element>(tail, branch.x, rows.begin + step * depth, rows.end, first, stage);
      },
      [&](int step, SharedOffset stage) {
        const int left = rows.end - rows.begin - step * depth;
        columns.add(stage, left < depth ? left : depth, shift);
      });
  columns.sums.join(scratch(0));
  if (block_half() == 1 || channel >= tail.channels) return;
  const auto& [sum, squares] = columns.sums.totals;
  const float mean = sum / static_cast<float>(rows.end - rows.begin);
  store_partial(tail, branch, range, channel, shift + mean, device::fma(-sum, mean, squares));
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

// Writes the part of the tile that exists.
DEVICE void store_partial_product(const Accumulators& sum, int rows, int columns, float* to) {
  const WarpTile tile = warp_tile();
  const Lane lane;
#pragma unroll
  for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
    for (int n = 0; n < fragment_columns; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = tile.row + m * 16 + half * 8 + lane.g, column = tile.column + n * 8 + 2 * lane.t;
        if (row >= rows || column >= columns) continue;
        const float* pair = &sum.values[m][n][2 * half];
        device::global_store(reinterpret_cast<Float2*>(to + row * tile_columns + column), Float2{pair[0], pair[1]});
      }
}

// Makes the stage's pixels ready for Products::transposed: shifts them where that happens in place, and makes pixels
// that do not exist count nothing. Says whether anything was done, that is, whether a barrier must follow.
template <class Products>
DEVICE bool prepare_pixels(SharedOffset stage, int pixels, SharedOffset shifts) {
  using Element = typename Products::Element;
  constexpr int depth = TileTraits<Element>::depth;
  if (!Products::shifted_in_place && pixels == depth) return false;
  const int column = block_column();
  const float shift = device::shared_load<float>(shifts + 4 * column);
#pragma unroll 2
  for (int pixel = block_half(); pixel < depth; pixel += 2) {
    const SharedOffset at =
        stage + pixel * TileTraits<Element>::pixel_pitch + column * static_cast<int>(sizeof(Element));
    if constexpr (Products::shifted_in_place) {
      const float x = Products::operand(device::shared_load<float>(at));
      device::shared_store(at, pixel < pixels ? x - shift : 0.0f);
    } else if (pixel >= pixels) {
      device::shared_store(at, device::from_float<Element>(shift));
    }
  }
  return true;
}

template <class Products>
DEVICE void gram_item(const Tail& tail, const Branch& branch, int item) {
  using Element = typename Products::Element;
  constexpr int depth = TileTraits<Element>::depth;
  const Activations& x = branch.x;
  const int pairs = tile_pairs(x.channels);
  const int range = item / pairs;
  const TilePair pair(item - range * pairs);
  const bool diagonal = pair.row == pair.column;
  const RowRange rows(tail, branch.partition, range);
  const int a_first = pair.row * tile_rows, b_first = pair.column * tile_columns;

  // Shifts of the row tile's channels, then of the column tile's.
  const SharedOffset a_shifts = scratch(0), b_shifts = scratch(tile_rows);
  const int column = block_column();
  const int channel = (block_half() == 0 ? a_first : b_first) + column;
  const float own_shift = channel < x.channels ? channel_shift<Products>(tail, x, channel) : 0.0f;
  device::block_sync();  // the last item's scratch has been read
  device::shared_store(scratch(device::thread_index()), own_shift);
  device::block_sync();
  const WarpTile tile = warp_tile();
  const float column_shift = device::shared_load<float>(a_shifts + 4 * column);

  const bool above_diagonal = diagonal && tile.column > tile.row + warp_rows - 1;
  const bool work = !above_diagonal && a_first + tile.row < x.channels && b_first + tile.column < x.channels;
  Accumulators sum;
  sum.clear();
  ShiftedSums<Products> columns;
  pipeline(
      rows.steps<Element>(),
      [&](int step, SharedOffset stage) {
        copy_pixels<Element>(tail, x, rows.begin + step * depth, rows.end, a_first, stage);
        if (!diagonal)
          copy_pixels<Element>(tail, x, rows.begin + step * depth, rows.end, b_first, stage + operand_bytes);
      },
      [&](int step, SharedOffset stage) {
        const int left = rows.end - rows.begin - step * depth;
        const int pixels = left < depth ? left : depth;
        const SharedOffset b = diagonal ? stage : stage + operand_bytes;
        bool prepared = prepare_pixels<Products>(stage, pixels, a_shifts);
        if (!diagonal) prepared = prepare_pixels<Products>(b, pixels, b_shifts);
        if (prepared) device::block_sync();
        if (diagonal) columns.add(stage, pixels, Products::shifted_in_place ? 0.0f : column_shift);
        if (work) Products::template transposed<true>(sum, stage, b, tile, a_shifts, b_shifts);
      });
  if (work)
    store_partial_product(sum, x.channels - a_first, x.channels - b_first,
                          gram_tile(branch, range, item - range * pairs));
  if (!diagonal) return;
  columns.sums.join(scratch(2 * tile_columns));
  if (block_half() == 1 || channel >= x.channels) return;
  const float sum_of_column = columns.sums.totals[0];
  device::global_store(branch.partial_sum + static_cast<std::int64_t>(range) * x.channels + channel, sum_of_column);
  if (range == 0) device::global_store(branch.shift + channel, column_shift);
}

// Count, mean and sum of squared distances of one channel.
struct alignas(16) Moments {
  float count, mean, m2;

  // Chan, Golub and LeVeque (1983), equation 2.1.
  DEVICE void join(float other_count, float other_mean, float other_m2) {
    const float distance = other_mean - mean, total = count + other_count;
    mean = device::fma(distance, other_count / total, mean);
    m2 += device::fma(distance * distance, count * (other_count / total), other_m2);
    count = total;
  }
};

// Mean and squared distances of the warp's columns over its rows: two columns a lane, 32 apart. They are those of the
// values as memory holds them: where all are equal, rounding must not leave a distance to their mean.
template <class Element>
struct WarpColumns {
  float mean[2], m2[2];

  // From the slab that store_tile has filled; the tile has `rows` rows.
  DEVICE explicit WarpColumns(int rows) : mean{}, m2{} {
    const int left = rows - warp_tile().row;
    const int count = left < warp_rows ? left : warp_rows;
    if (count <= 0) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const SharedOffset column = warp_slab() + 4 * (device::lane_index() + i * device::warp_size);
      float sum = 0.0f;
#pragma unroll 4
      for (int row = 0; row < count; ++row) sum += stored(column, row);
      mean[i] = sum / static_cast<float>(count);
#pragma unroll 4
      for (int row = 0; row < count; ++row) {
        const float distance = stored(column, row) - mean[i];
        m2[i] = device::fma(distance, distance, m2[i]);
      }
    }
  }

  // Leaves them in scratch memory.
  DEVICE void store() const {
    const WarpTile tile = warp_tile();
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int column = tile.column + device::lane_index() + i * device::warp_size;
      const int at = 2 * (tile.row / warp_rows * tile_columns + column);
      device::shared_store(scratch(at), mean[i]);
      device::shared_store(scratch(at + 1), m2[i]);
    }
  }

 private:
  DEVICE static float stored(SharedOffset column, int row) {
    const auto value = device::shared_load<float>(column + 4 * row * slab_pitch);
    return device::to_float(device::from_float<Element>(value));
  }
};
static_assert(warp_columns == 2 * device::warp_size);
static_assert(2 * warp_grid_rows * tile_columns * 4 <= scratch_bytes);

// The moments of a product tile's columns so far, one a thread, in memory that only the apply phase uses otherwise:
// they would cost registers that the products need.
DEVICE SharedOffset running_moments() {
  return vectors_offset + device::thread_index() * static_cast<int>(sizeof(Moments));
}
static_assert(tile_columns * sizeof(Moments) <= vectors_bytes);

// Joins what the warps left for the thread's column, in the order of the rows.
DEVICE void join_warps(int rows) {
  auto moments = device::shared_load<Moments>(running_moments());
#pragma unroll
  for (int warp = 0; warp < warp_grid_rows; ++warp) {
    const int left = rows - warp * warp_rows;
    if (left <= 0) break;
    const int at = 2 * (warp * tile_columns + device::thread_index());
    moments.join(static_cast<float>(left < warp_rows ? left : warp_rows), device::shared_load<float>(scratch(at)),
                 device::shared_load<float>(scratch(at + 1)));
  }
  device::shared_store(running_moments(), moments);
}

template <class Products>
DEVICE void product_item(const Tail& tail, const Branch& branch, int item) {
  using Element = typename Products::Element;
  const int tiles = tiles_of(tail.channels, tile_columns);
  const int range = item / tiles;
  const int first = (item - range * tiles) * tile_columns;
  const RowRange rows(tail, branch.partition, range);
  if (device::thread_index() < tile_columns) device::shared_store(running_moments(), Moments{0.0f, 0.0f, 0.0f});
#pragma unroll 1
  for (int row = rows.begin; row < rows.end; row += tile_rows) {
    const TilePlace place{row, rows.end, first};
    Accumulators p;
    p.clear();
    multiply_weight<Products>(tail, branch, place, p);
    const Activations& to = branch.materialised;
    store_tile<Element>(tail, Output{to, to.vectorised}, p, place, Ending<2>{{nothing(to), nothing(to)}, false});
    const int count = rows.end - row < tile_rows ? rows.end - row : tile_rows;
    const WarpColumns<Element> columns(warp_has_work(place, to.channels) ? count : 0);
    device::block_sync();  // slabs, which overlap the scratch memory, have been read
    columns.store();
    device::block_sync();
    if (device::thread_index() < tile_columns) join_warps(count);
    device::block_sync();
  }
  const int channel = first + device::thread_index();
  if (device::thread_index() >= tile_columns || channel >= tail.channels) return;
  const auto moments = device::shared_load<Moments>(running_moments());
  store_partial(tail, branch, range, channel, moments.mean, moments.m2);
}

// Counts the batch, and leaves its weight in the running statistics for `finish`.
DEVICE void count_batch(const Branch& branch) {
  const Norm& norm = branch.norm;
  float momentum = norm.momentum;
  if (norm.num_batches_tracked != nullptr) {
    const std::int64_t batches = device::global_load(norm.num_batches_tracked) + 1;
    device::global_store(norm.num_batches_tracked, batches);
    if (norm.cumulative) momentum = 1.0f / static_cast<float>(batches);
  }
  device::global_store(branch.momentum, momentum);
}

template <class Products>
DEVICE void moments_item(const Tail& tail, const Branch& branch, int item) {
  switch (branch.statistics) {
    case Statistics::columns:
      return columns_item<Products>(tail, branch, item);
    case Statistics::gram:
      return gram_item<Products>(tail, branch, item);
    default:
      return product_item<Products>(tail, branch, item);
  }
}

template <class Products>
DEVICE void moments(const Tail& tail) {
  int item = device::block_index();
#pragma unroll 1
  for (int index = 0; index < 2; ++index) {
    const Branch& branch = tail.branches[index];
    if (!is_training(branch)) continue;
    if (device::block_index() == 0 && device::thread_index() == 0) count_batch(branch);
    const int items = moments_items(tail, branch);
    for (; item < items; item += device::grid_size()) moments_item<Products>(tail, branch, item);
    item -= items;
  }
}

}  // namespace fused_resnet
