// What needs no product goes from memory to registers and back. A thread keeps to its channels, so that what is done to
// them stays in registers, and has several rows under way before it uses the first of them.
#pragma once

#include <cstring>
#include <type_traits>

#include <epilogue.cuh>
#include <mainloop.cuh>

namespace fused_resnet {

// How a block's threads share channels and rows: each thread has `V` neighbouring channels, 16 bytes, and neighbouring
// threads have neighbouring channels, or neighbouring rows. A pass covers so many of a tile's columns. `vectorised`:
// the channels are accessed at once, or one by one.
template <int V, bool vectorised>
struct Share {
  bool rows_first;
  int across;  // threads, or warps where rows come first, side by side along the channels: a power of two

  DEVICE Share(bool neighbouring_rows, int channels) : rows_first(!vectorised && neighbouring_rows), across(1) {
    const int most = rows_first ? block_threads / device::warp_size : tile_columns / V;
#pragma unroll 1
    while (across < most && across * V < channels) across *= 2;
  }

  DEVICE int columns() const { return across * V; }
  DEVICE int column() const { return (rows_first ? device::warp_index() : device::thread_index()) % across * V; }
  DEVICE int rows() const { return block_threads / across; }
  DEVICE int row() const {
    if (!rows_first) return device::thread_index() / across;
    return device::warp_index() / across * device::warp_size + device::lane_index();
  }
};

// Calls `run(share)` for the layout.
template <class Element, class Run>
DEVICE void with_share(bool vectorised, bool channels_first, int channels, Run run) {
  constexpr int vector = TileTraits<Element>::vector;
  if (vectorised) return run(Share<vector, true>(false, channels));
  run(Share<vector, false>(!channels_first, channels));
}

// 16 bytes on their way to registers: words, which nobody looks into before they are used. Of halves, the compiler
// makes registers of their own wherever a load may be left out, and so waits for each load before it starts the next.
struct alignas(16) Words {
  std::uint32_t at[4];
};

// Channels that have been loaded, or are on their way.
template <class Element, int V, bool vectorised>
struct Loaded {
  using Values = Channels<Element, V>;
  std::conditional_t<vectorised, Words, Values> data;
  unsigned passes;  // bits of the channels whose gradients y's relu lets pass

  // `masked`: by those bits.
  DEVICE Values values(bool masked) const {
    Values found;
    static_assert(sizeof(found) == sizeof(data));
    std::memcpy(&found, &data, sizeof(found));
    if (masked) mask_vector(found.at, passes);
    return found;
  }
};

// A source as one thread reads it: zeros where it has no channels, which in vectors begin and end at multiples of V.
template <class Element, int V, bool vectorised>
struct StreamedColumn {
  const Activations& x;
  int first, end;          // of the source's channels that are read
  bool masks;              // by y's relu
  const Element* channel;  // of row 0, null where the source has none of the thread's

  DEVICE StreamedColumn(const Activations& source, bool exists, int from, int to, bool masked = false)
      : x(source), first(from), end(to < x.channels ? to : x.channels), masks(masked), channel(nullptr) {
    const int last = vectorised ? first : first + V - 1;
    if (exists && last >= 0 && first < end) channel = static_cast<const Element*>(x.data) + first * x.stride_c;
  }

  // `exists`: the row does.
  DEVICE Loaded<Element, V, vectorised> load(const Tail& tail, int row, bool exists) const {
    Loaded<Element, V, vectorised> loaded{};
    if (channel == nullptr || !exists) return loaded;
    const Element* pixel = channel + row_offset(tail, x, row);
    if constexpr (vectorised) {
      loaded.data = device::global_load(reinterpret_cast<const Words*>(pixel));
    } else {
      const std::int64_t stride = device::unforeseen(x.stride_c);
#pragma unroll
      for (int i = 0; i < V; ++i)
        if (has(i)) loaded.data.at[i] = device::global_load(pixel + i * stride);
    }
    if (masks) loaded.passes = mask(tail, row);
    return loaded;
  }

 private:
  DEVICE bool has(int i) const { return first + i >= 0 && first + i < end; }

  DEVICE unsigned mask(const Tail& tail, int row) const {
    const int own = static_cast<int>(device::unforeseen(first));  // registers of the mask's own would be missed
    if constexpr (vectorised) return device::global_load(mask_place<Element>(tail.mask, row, own));
    unsigned bits = 0;
#pragma unroll
    for (int i = 0; i < V; ++i)
      if (has(i))
        bits |= (device::global_load(mask_place<Element>(tail.mask, row, own + i)) >> (own + i) % V & 1u) << i;
    return bits;
  }
};

// Writes the thread's channels of a pixel of `to`, from `channel` on.
template <bool vectorised, class Element, int V>
DEVICE void store_streamed(Element* pixel, const Activations& to, int channel, const Channels<Element, V>& values) {
  if constexpr (vectorised) {
    device::global_store(reinterpret_cast<Channels<Element, V>*>(pixel), values);
  } else {
    const std::int64_t stride = device::unforeseen(to.stride_c);
#pragma unroll
    for (int i = 0; i < V; ++i)
      if (channel + i < to.channels) device::global_store(pixel + i * stride, values.at[i]);
  }
}

// A source that is added through its affine.
struct StreamedAddend {
  const Activations& x;
  bool exists;
  int channels_before;  // of the result's, ahead of x's own; negative where x's first are left out
  bool masked = false;  // counts where y's relu lets a gradient pass; it has y's channels
};

// Rows whose sources a thread loads before it uses the first of them: of two sources, two blocks a multiprocessor have
// 48 KiB under way. Channels that are loaded one by one are as many loads in one row.
template <bool vectorised>
constexpr int streamed_rows = vectorised ? 3 : 1;

// Writes the column's channels of the block's rows, a pass of a tile's columns from `pass` on.
template <class Element, int V, bool vectorised>
DEVICE void stream_pass(const Tail& tail, const Activations& to, const StreamedAddend& a, const StreamedAddend& b,
                        bool relu, TileColumn tile, const Share<V, vectorised>& share, int pass, bool masks) {
  using Values = Channels<Element, V>;
  constexpr int part = 4, count = streamed_rows<vectorised>;
  const int column = pass + share.column(), channel = tile.channel() + column;
  if (channel >= to.channels) return;
  const auto source = [&](const StreamedAddend& of) {
    const int before = of.channels_before;
    return StreamedColumn<Element, V, vectorised>(of.x, of.exists, channel - before, to.channels - before, of.masked);
  };
  const StreamedColumn<Element, V, vectorised> sources[2] = {source(a), source(b)};
  auto* out = static_cast<Element*>(to.data) + channel * to.stride_c;
  const int batch = share.rows() * count, batches = tiles_of(tail.rows, batch);
#pragma unroll 1
  for (int number = tile.share; number < batches; number += tile.shares) {
    const int row = number * batch + share.row();
    Loaded<Element, V, vectorised> loaded[2][count];
    Values results[count];
#pragma unroll
    for (int j = 0; j < count; ++j)
#pragma unroll
      for (int of = 0; of < 2; ++of) {
        const int at = row + j * share.rows();
        loaded[of][j] = sources[of].load(tail, at, at < tail.rows);
      }
    // Affines come from shared memory for each batch: all of them would leave no registers for what is under way.
#pragma unroll
    for (int from = 0; from < V; from += part) {
      float sums[count][part] = {};
#pragma unroll
      for (int of = 0; of < 2; ++of) {
        if (sources[of].channel == nullptr) continue;
        auto affines = Affines::load<part>(of, column + from);
        const bool masked_by_first = masks && of == 1;
        Affine norms[part];
        if (masked_by_first) {
          const auto centres = Affines::load<part>(0, column + from);
#pragma unroll
          for (int i = 0; i < part; ++i) {
            norms[i] = {centres.at[i].centre, affines.at[i].scale, affines.at[i].shift};
            affines.at[i].shift = 0.0f;
          }
        }
#pragma unroll
        for (int j = 0; j < count; ++j) {
          Values own = loaded[of][j].values(sources[of].masks);
          if (masked_by_first) {
            const Values input = loaded[0][j].values(false);
#pragma unroll
            for (int i = 0; i < part; ++i)
              own.at[from + i] = masked_by_input(own.at[from + i], input.at[from + i], norms[i]);
          }
          float values[part];
          float_values(own.at, from, values);
#pragma unroll
          for (int i = 0; i < part; ++i) sums[j][i] += affines.at[i](values[i]);
        }
      }
#pragma unroll
      for (int j = 0; j < count; ++j) round_values<part>(results[j].at, from, relu, [&](int i) { return sums[j][i]; });
    }
#pragma unroll
    for (int j = 0; j < count; ++j) {
      const int at = row + j * share.rows();
      if (at >= tail.rows) continue;
      if (relu && tail.mask.bytes != nullptr)
        device::global_store(mask_place<Element>(tail.mask, at, channel), mask_byte(results[j].at));
      store_streamed<vectorised>(out + row_offset(tail, to, at), to, channel, results[j]);
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
