// The backward's first phase: sums over the rows, one partial result for each range of them.
//
//   dot      sum g, sum g (z - mean) of a direct source's channels
//   product  g^T (x - shift) of a projection, 128 x 128 channels an item; or of both, 64 input channels of each
//
// g = dy where y > 0 is made by the mask on the way from memory to the sums. One branch leads: its items, those of the
// first input channels where there are several for the same g, also write g for the phases to come, and sum it.
#pragma once

#include <gradient_stages.cuh>
#include <moments.cuh>

namespace fused_resnet {

// A stage holds g, what it is multiplied with, and g's mask.
using GradientRing = RingOf<4, 2 * operand_bytes + stage_mask_bytes>;
constexpr SharedOffset gradient_shifts = GradientRing::stages * GradientRing::bytes;
constexpr int gradient_sums_bytes = gradient_shifts + 4 * tile_columns;
constexpr int gradient_shared_bytes = gradient_sums_bytes < shared_bytes ? shared_bytes : gradient_sums_bytes;
// Two blocks of 82,944 bytes fit a multiprocessor of sm_80, with what the system keeps of it.
static_assert(gradient_shared_bytes + 1024 <= 82 * 1024 && gradient_shared_bytes <= many_shared_bytes);

// Whether the only source masks; a projection never does, and its kernels need not know.
template <bool projections>
DEVICE bool masks_input(const TailGradient& gradient) {
  return !projections && gradient.masks_input;
}

DEVICE float* of_range(float* partial, int range, int channels) {
  return partial + static_cast<std::int64_t>(range) * channels;
}

// The norm of a branch as the forward applied it.
DEVICE Affine forward_affine(const Branch& branch, int channel) {
  const float var = device::global_load(branch.var + channel);
  return {device::global_load(branch.mean + channel), norm_scale(branch.norm, channel, var),
          vector_element(branch.norm.bias, branch.norm.type, channel, 0.0f)};
}

// Sums a pass of the columns of the tile that begins at channel `first`.
template <class Element, int V, bool vectorised>
DEVICE void dot_pass(const TailGradient& gradient, int index, int range, int first, int pass,
                     const Share<V, vectorised>& share, bool masks) {
  using Values = Channels<Element, V>;
  constexpr int batch = vectorised ? 3 : 1;  // of two tensors
  const Tail& tail = gradient.tail;
  const Branch& branch = tail.branches[index];
  const BranchGradient& own = gradient.branches[index];
  const bool dots = own.reduction == Reduction::dot, leads = index == gradient.leader;
  constexpr int part = 4;
  const RowRange rows(tail, gradient.partition, range);
  const int channel = first + pass + share.column();
  const StreamedColumn<Element, V, vectorised> dy(gradient.dy, true, channel, tail.channels, tail.relu && !masks),
      z(branch.x, dots || masks, channel, tail.channels);
  Element* g = nullptr;
  if (leads && gradient.writes_g) g = static_cast<Element*>(gradient.g.data) + channel * gradient.g.stride_c;
  float means[V], sums[2][V] = {};
#pragma unroll
  for (int i = 0; i < V; ++i)
    means[i] = dots && channel + i < tail.channels ? device::global_load(branch.mean + channel + i) : 0.0f;
  if (dy.channel != nullptr)
    for_each_batch<batch>(rows, share, [&](auto row) {
      Loaded<Element, V, vectorised> loaded[batch][2];
#pragma unroll
      for (int j = 0; j < batch; ++j) {
        const bool exists = row(j) < rows.end;
        loaded[j][0] = dy.load(tail, row(j), exists);
        loaded[j][1] = z.load(tail, row(j), exists);
      }
#pragma unroll
      for (int j = 0; j < batch; ++j) {
        if (row(j) >= rows.end) break;
        Values incoming = loaded[j][0].values(dy.masks);
        const Values input = loaded[j][1].values(false);
        if (masks) {
#pragma unroll
          for (int from = 0; from < V; from += part) {
            const auto affines = Affines::load<part>(0, pass + share.column() + from);
#pragma unroll
            for (int i = 0; i < part; ++i)
              incoming.at[from + i] = masked_by_input(incoming.at[from + i], input.at[from + i], affines.at[i]);
          }
        }
        if (g != nullptr)
          store_streamed<vectorised>(g + row_offset(tail, gradient.g, row(j)), gradient.g, channel, incoming);
        float values[V], of_z[V];
        float_values(incoming.at, 0, values);
        float_values(input.at, 0, of_z);
#pragma unroll
        for (int i = 0; i < V; ++i) {
          sums[0][i] += values[i];
          sums[1][i] = device::fma(values[i], of_z[i] - means[i], sums[1][i]);
        }
      }
    });
  join_streamed(share, sums, [&](int column, float sum, float dot) {
    const int at = first + pass + column;
    if (at >= tail.channels) return;
    if (leads) device::global_store(of_range(gradient.partial_sum, range, tail.channels) + at, sum);
    if (dots) device::global_store(of_range(own.partial_dot, range, tail.channels) + at, dot);
  });
}

template <class Element>
DEVICE void dot_item(const TailGradient& gradient, int index, int range, int tile, bool masks) {
  const Activations& z = gradient.tail.branches[index].x;
  const bool dots = gradient.branches[index].reduction == Reduction::dot;
  const int first = tile * tile_columns, channels = gradient.tail.channels;
  if (masks) {
    // The last tile's have been read: its sums have been joined.
    Affines::prepare(first, channels,
                     [&](int, int channel) { return forward_affine(gradient.tail.branches[0], channel); });
    device::block_sync();
  }
  with_share<Element>(gradient.vectorised && (!dots || z.vectorised), gradient.dy.stride_c == 1, channels,
                      [&](auto share) {
#pragma unroll 1
                        for (int pass = 0; pass < tile_columns && first + pass < channels; pass += share.columns())
                          dot_pass<Element>(gradient, index, range, first, pass, share, masks);
                      });
}

DEVICE float* product_tile(const TailGradient& gradient, int index, int range, int tile) {
  const BranchGradient& own = gradient.branches[index];
  return own.partial_product +
         (range * static_cast<std::int64_t>(own.product_tiles) + tile) * (tile_rows * tile_columns);
}

// A column of a tile of x: a channel of a branch's input.
struct InputColumn {
  int branch, channel;
};

// Puts the shift of a column of x's tile into shared memory, and into global memory where that is this item's.
template <class Products>
DEVICE void prepare_input_shift(const TailGradient& gradient, bool stores, int column, InputColumn of) {
  const Activations& x = gradient.tail.branches[of.branch].x;
  const bool exists = of.channel < x.channels;
  const float shift = exists ? channel_shift<Products>(gradient.tail, x, of.channel) : 0.0f;
  device::shared_store(gradient_shifts + 4 * column, shift);
  if (stores && exists) device::global_store(gradient.branches[of.branch].shift + of.channel, shift);
}

// Tile `tile` of g^T (x - shift) over a range of rows. `width`: of x's tile.
template <class Products, int width>
DEVICE void product_item(const TailGradient& gradient, int index, int range, int tile) {
  using Element = typename Products::Element;
  using Traits = PixelTraits<Element, wide>;
  using Warps = WarpShare<tile_rows, width>;
  constexpr int depth = Traits::depth, pixels = depth / Warps::parts;
  const Tail& tail = gradient.tail;
  const bool joined = width == wide && gradient.joined;
  const int tiles = gradient.branches[index].input_tiles;
  const int first = tile / tiles * tile_rows, input = (tile - tile / tiles * tiles) * tile_columns;
  const auto column_of = [=](int column) {
    return joined ? InputColumn{column / narrow, column % narrow} : InputColumn{index, input + column};
  };
  // These items write and sum g.
  const bool leads = index == gradient.leader && input == 0;
  const Incoming<Element> incoming{gradient, leads && gradient.writes_g};
  const RowRange rows(tail, gradient.partition, range);
  if (const int column = device::thread_index(); column < tile_columns)
    prepare_input_shift<Products>(gradient, range == 0 && first == 0, column, column_of(column));
  device::block_sync();
  const bool shifted = any_shift(gradient_shifts, tile_columns);
  const WarpTile warp = Warps::tile();
  // Of the warp's branch, from the warp's first on.
  const auto inputs = [&](InputColumn of) { return tail.branches[of.branch].x.channels - of.channel; };
  const bool work = first + warp.row < tail.channels && inputs(column_of(warp.column)) > 0;
  const SharedOffset part = Warps::part() * pixels * Traits::pitch;
  Accumulators sum;
  sum.clear();
  ColumnSums<Element, Traits> columns;
  // The input that this thread copies: of which branch, and the channel that the tile's first column is.
  const auto copied = [&] {
    const int branch = joined ? PixelChunk<Traits>(device::thread_index(), 0).column / narrow : index;
    return InputColumn{branch, joined ? -branch * narrow : input};
  };
  const Activations& x = tail.branches[copied().branch].x;
  const bool dense = DenseGradientStages<Element>::takes(gradient), dense_x = DenseStages<Element, Traits>::takes(x);
  DenseGradientStages<Element> stages(gradient, rows.begin, first);
  DenseStages<Element, Traits> x_stages(x, rows.begin, copied().channel);
  pipeline<GradientRing>(
      rows.steps(depth),
      [&](int step, SharedOffset stage) {
        const int row = rows.begin + step * depth;
        const SharedOffset chunk = stage + PixelChunk<Traits>(device::thread_index(), 0).offset();
        if (dense) {
          stages.copy(rows.end - row, stage, chunk);
        } else {
          incoming.load(row, rows.end, first, stage);
        }
        if (dense_x) return x_stages.copy(rows.end - row, chunk + operand_bytes);
        const auto [branch, channel] = copied();
        copy_pixels<Element, Traits>(tail, tail.branches[branch].x, row, rows.end, channel, stage + operand_bytes);
      },
      [&](int step, SharedOffset stage) { incoming.prepare(rows.begin + step * depth, rows.end, first, stage); },
      [&](int step, SharedOffset stage) {
        const SharedOffset other = stage + operand_bytes;
        // Pixels that do not exist are zeros.
        if (leads) columns.add(stage, [](float value, int) { return value; });
        if constexpr (Products::shifted_in_place) {
          prepare_pixels<Products, Traits>(other, rows.end - rows.begin - step * depth, gradient_shifts);
          device::block_sync();
        }
        if (work)
          Products::template transposed<false, pixels, Traits::pitch>(sum, stage + part, other + part, warp,
                                                                      gradient_shifts, gradient_shifts, shifted);
      });
  join_parts<Warps>(sum);
  if (work && Warps::part() == 0) {
    const InputColumn of = column_of(warp.column);
    store_partial_product(sum, {warp.row, 0}, 0, tail.channels - first, inputs(of),
                          product_tile(gradient, of.branch, range, tile) + of.channel - input,
                          [](int row, int column) { return row * tile_columns + column; });
  }
  if (!leads) return;
  const float total = columns.join(joined_columns);
  const int channel = first + device::thread_index();
  if (device::thread_index() < tile_rows && channel < tail.channels)
    device::global_store(of_range(gradient.partial_sum, range, tail.channels) + channel, total);
}

template <class Products>
DEVICE void product_item(const TailGradient& gradient, int index, int range, int tile) {
  if (gradient.tail.branches[index].x.channels <= narrow && !gradient.joined)
    return product_item<Products, narrow>(gradient, index, range, tile);
  product_item<Products, wide>(gradient, index, range, tile);
}

template <class Products, bool projections>
DEVICE void reduce_item(const TailGradient& gradient, int index, int range, int tile) {
  using Element = typename Products::Element;
  if constexpr (projections) {
    if (gradient.branches[index].reduction == Reduction::product)
      return product_item<Products>(gradient, index, range, tile);
  }
  dot_item<Element>(gradient, index, range, tile, masks_input<projections>(gradient));
}

// Calls `run(index, part, tile)` for the items that are the block's. Neighbouring blocks take the tiles of the same
// rows. No barrier stands between items: a product has one of its own ahead of its stages, and the sums of a direct
// source, which may follow a product that leads, lie apart from those of its columns.
template <class Run>
DEVICE void for_each_item(const Work& work, Run run) {
#pragma unroll 1
  for (int item = device::block_index(); item < work.items; item += device::grid_size()) {
    const int part = item / work.tiles, tile = item - part * work.tiles;
    const int index = tile < work.tiles_before ? 0 : 1;
    run(index, part, index == 0 ? tile : tile - work.tiles_before);
  }
}

template <class Products, bool projections>
DEVICE void grad_reduce(const TailGradient& gradient) {
  for_each_item(gradient.reduce, [&](int index, int range, int tile) {
    reduce_item<Products, projections>(gradient, index, range, tile);
  });
}

}  // namespace fused_resnet
