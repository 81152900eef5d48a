// What needs no product goes from memory to registers and back. A thread keeps to its channels, so that what is done to
// them stays in registers, and has several rows under way before it uses the first of them.
#pragma once

#include <epilogue.cuh>
#include <mainloop.cuh>

namespace fused_resnet {

// How a block's threads share channels and rows: each thread has `V` neighbouring channels, and neighbouring threads
// have neighbouring channels, or neighbouring rows. A pass covers so many of a tile's columns.
template <int V>
struct Share {
  bool rows_first;
  int across;  // threads side by side along the channels: a power of two

  DEVICE Share(bool neighbouring_rows, int channels)
      : rows_first(neighbouring_rows), across(neighbouring_rows ? block_threads / device::warp_size : 1) {
    if (rows_first) return;
#pragma unroll 1
    while (across < tile_columns / V && across * V < channels) across *= 2;
  }

  DEVICE int columns() const { return across * V; }
  DEVICE int column() const { return (rows_first ? device::warp_index() : device::thread_index() % across) * V; }
  DEVICE int rows() const { return block_threads / across; }
  DEVICE int row() const { return rows_first ? device::lane_index() : device::thread_index() / across; }
};

// Calls `run(share)` for the layout.
template <class Element, class Run>
DEVICE void with_share(bool vectorised, bool channels_first, int channels, Run run) {
  if (vectorised) return run(Share<TileTraits<Element>::vector>(false, channels));
  run(Share<1>(!channels_first, channels));
}

// A source as one thread reads it. Null where it has zeros, which in vectors begin and end at multiples of V.
template <class Element, int V>
struct StreamedColumn {
  using Values = Channels<Element, V>;
  const Activations& x;
  const Element* channel;  // of row 0

  DEVICE StreamedColumn(const Activations& source, bool exists, int first) : x(source), channel(nullptr) {
    if (exists && first >= 0 && first < x.channels) channel = static_cast<const Element*>(x.data) + first * x.stride_c;
  }

  DEVICE Values load(const Tail& tail, int row) const {
    if (channel == nullptr) return {};
    return device::global_load(reinterpret_cast<const Values*>(channel + row_offset(tail, x, row)));
  }
};

// A source that is added through its affine.
struct StreamedAddend {
  const Activations& x;
  bool exists;
  int channels_before;  // of the result's, ahead of x's own; negative where x's first are left out
};

// Rows whose sources a thread loads before it uses the first of them: of two sources, two blocks a multiprocessor have
// 48 KiB under way.
constexpr int streamed_rows = 3;

// Writes the column's channels of the block's rows, a pass of a tile's columns from `pass` on.
template <class Element, int V>
DEVICE void stream_pass(const Tail& tail, const Activations& to, const StreamedAddend& a, const StreamedAddend& b,
                        bool relu, TileColumn tile, const Share<V>& share, int pass, bool masks) {
  using Values = Channels<Element, V>;
  constexpr int part = V < 4 ? V : 4;
  const int column = pass + share.column(), channel = tile.channel() + column;
  if (channel >= to.channels) return;
  const StreamedColumn<Element, V> sources[2] = {{a.x, a.exists, channel - a.channels_before},
                                                 {b.x, b.exists, channel - b.channels_before}};
  auto* out = static_cast<Element*>(to.data) + channel * to.stride_c;
  const int batch = share.rows() * streamed_rows, batches = tiles_of(tail.rows, batch);
#pragma unroll 1
  for (int number = tile.share; number < batches; number += tile.shares) {
    const int row = number * batch + share.row();
    Values loaded[2][streamed_rows], results[streamed_rows];
#pragma unroll
    for (int j = 0; j < streamed_rows; ++j)
#pragma unroll
      for (int of = 0; of < 2; ++of) {
        const int at = row + j * share.rows();
        loaded[of][j] = at < tail.rows ? sources[of].load(tail, at) : Values{};
      }
    // Affines come from shared memory for each batch: all of them would leave no registers for what is under way.
#pragma unroll
    for (int from = 0; from < V; from += part) {
      float sums[streamed_rows][part] = {};
#pragma unroll
      for (int of = 0; of < 2; ++of) {
        if (sources[of].channel == nullptr) continue;
        Affine affines[part];
        Affines::load(of, column + from, affines);
        if (masks && of == 1) {
          Affine centres[part];
          Affines::load(0, column + from, centres);
#pragma unroll
          for (int i = 0; i < part; ++i) {
            const Affine norm{centres[i].centre, affines[i].scale, affines[i].shift};
            affines[i].shift = 0.0f;
#pragma unroll
            for (int j = 0; j < streamed_rows; ++j)
              loaded[1][j].at[from + i] = masked_by_input(loaded[1][j].at[from + i], loaded[0][j].at[from + i], norm);
          }
        }
#pragma unroll
        for (int j = 0; j < streamed_rows; ++j)
#pragma unroll
          for (int i = 0; i < part; ++i) sums[j][i] += affines[i](device::to_float(loaded[of][j].at[from + i]));
      }
#pragma unroll
      for (int j = 0; j < streamed_rows; ++j)
#pragma unroll
        for (int i = 0; i < part; ++i)
          results[j].at[from + i] = device::from_float<Element>(relu ? rectified(sums[j][i]) : sums[j][i]);
    }
#pragma unroll
    for (int j = 0; j < streamed_rows; ++j) {
      const int at = row + j * share.rows();
      if (at < tail.rows) device::global_store(reinterpret_cast<Values*>(out + row_offset(tail, to, at)), results[j]);
    }
  }
}

// Writes a column of tiles, the sum of two sources through the affines 0 and 1, which are complete.
// `vectorised`: these and the result can be accessed 16 bytes at once. `masks`: the second counts where the relu of the
// first's norm is positive, whose centre the first's affine has, and whose scale and shift the second's.
template <class Element>
DEVICE void stream_tiles(const Tail& tail, const Activations& to, const StreamedAddend& a, const StreamedAddend& b,
                         bool vectorised, bool relu, TileColumn tile, bool masks = false) {
  with_share<Element>(vectorised, to.stride_c == 1, to.channels, [&](auto share) {
#pragma unroll 1
    for (int pass = 0; pass < tile_columns; pass += share.columns())
      stream_pass<Element>(tail, to, a, b, relu, tile, share, pass, masks);
  });
}

}  // namespace fused_resnet
