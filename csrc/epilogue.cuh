// From accumulators to memory. A warp's tile passes through its own slab of shared memory, so that neighbouring lanes
// write neighbouring elements: channels where these lie side by side, 16 bytes a lane where the layout allows, pixels
// otherwise.
#pragma once

#include <affine.cuh>
#include <pixels.cuh>

namespace fused_resnet {

// A tensor that is added to a tile where it is written.
struct Addend {
  const Activations& x;
  bool exists;          // otherwise nothing is added
  bool normed;          // by its affine
  int channels_before;  // of the tile's, ahead of x's own; negative where x's first are left out
};

DEVICE Addend nothing(const Activations& any) { return {any, false, false, 0}; }

// An addend as one lane adds it: `V` neighbouring channels of any row.
template <class Element, int V>
struct AddendColumn {
  struct alignas(sizeof(Element) * V) Values {
    Element at[V];
  };

  const Activations& x;
  // Of row 0. Null where the addend has zeros, which in vectors begin and end at multiples of V.
  const Element* channel;
  int index, column;
  bool normed;

  // From channel `first` on, which is column `tile_column` of the tile; `affine` is the index of its affine.
  DEVICE AddendColumn(const Addend& addend, int affine, int first, int tile_column)
      : x(addend.x), channel(nullptr), index(affine), column(tile_column), normed(addend.normed) {
    const int from = first - addend.channels_before;
    if (addend.exists && from >= 0 && from < x.channels)
      channel = static_cast<const Element*>(x.data) + from * x.stride_c;
  }

  DEVICE Values load(const Tail& tail, int row) const {
    if (channel == nullptr) return {};
    return device::global_load(reinterpret_cast<const Values*>(channel + row_offset(tail, x, row)));
  }

  DEVICE void add(const Values& loaded, float (&values)[V]) const {
    if (channel == nullptr) return;
    if (!normed) {
#pragma unroll
      for (int i = 0; i < V; ++i) values[i] += device::to_float(loaded.at[i]);
      return;
    }
    // From shared memory for each row: in registers they would cost accumulators theirs.
    constexpr int step = V < 4 ? V : 4;
#pragma unroll
    for (int i = 0; i < V; i += step) {
      Affine affines[step];
      Affines::load(index, column + i, affines);
#pragma unroll
      for (int j = 0; j < step; ++j) values[i + j] += affines[j](device::to_float(loaded.at[i + j]));
    }
  }
};

DEVICE SharedOffset warp_slab() { return device::warp_index() * slab_bytes; }

// Puts the warp's accumulators into its slab, row by row.
DEVICE void fill_slab(const Accumulators& sum, SharedOffset slab) {
  const int g = device::lane_index() / 4, t = device::lane_index() % 4;
#pragma unroll
  for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
    for (int n = 0; n < fragment_columns; ++n)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        const int row = m * 16 + half * 8 + g, column = n * 8 + 2 * t;
        const float* pair = &sum.values[m][n][2 * half];
        device::shared_store(slab + 4 * (row * slab_pitch + column), Float2{pair[0], pair[1]});
      }
}

// What becomes of a tile on its way to memory: addends from `first_addend` on are added, then relu.
template <int first_addend>
struct Ending {
  // There is something in the accumulators: products take the place of the first addends.
  static constexpr bool has_products = first_addend > 0;
  Addend addends[2];
  bool relu;
};

// Where a tile goes: a tensor whose pixels are the rows.
struct Output {
  const Activations& out;
  bool vectorised;  // and all addends with it

  // Called where a row's values have been written at `pixel`.
  template <class Values, class Element>
  DEVICE void surround(const Tail&, Element*, int) const {}
};

// How lanes share a slab: neighbouring lanes take neighbouring rows, or neighbouring vectors of channels.
template <int V, bool rows_first>
struct Lanes {
  static constexpr int vectors = warp_columns / V;
  static constexpr int across = rows_first ? 1 : vectors < device::warp_size ? vectors : device::warp_size;
  static constexpr int down = device::warp_size / across;
  // Rows whose addends a lane loads before it uses the first of them.
  static constexpr int batch = V > 1 ? 2 : 1;
  static_assert(warp_rows % (down * batch) == 0);
};

// Writes `V` channels of the slab's rows, from column `column` of the tile on.
template <class Element, int V, bool rows_first, class To, int first_addend>
DEVICE void store_column(const Tail& tail, const To& to, TilePlace place, SharedOffset slab, int column,
                         const Ending<first_addend>& ending) {
  using Column = AddendColumn<Element, V>;
  using Values = typename Column::Values;
  using Share = Lanes<V, rows_first>;
  const WarpTile tile = warp_tile();
  const int channel = place.channel + tile.column + column;
  const Column addends[2] = {{ending.addends[0], 0, channel, tile.column + column},
                             {ending.addends[1], 1, channel, tile.column + column}};
  auto* out = static_cast<Element*>(to.out.data) + channel * to.out.stride_c;
#pragma unroll 1
  for (int first = device::lane_index() / Share::across; first < warp_rows; first += Share::down * Share::batch) {
    Values loaded[Share::batch][2];
#pragma unroll
    for (int j = 0; j < Share::batch; ++j) {
      const int row = place.row + tile.row + first + j * Share::down;
#pragma unroll
      for (int index = first_addend; index < 2; ++index)
        loaded[j][index] = row < place.end ? addends[index].load(tail, row) : Values{};
    }
#pragma unroll
    for (int j = 0; j < Share::batch; ++j) {
      const int slab_row = first + j * Share::down, row = place.row + tile.row + slab_row;
      if (row >= place.end) continue;
      float values[V];
#pragma unroll
      for (int k = 0; k < V; ++k)
        values[k] = Ending<first_addend>::has_products
                        ? device::shared_load<float>(slab + 4 * (slab_row * slab_pitch + column + k))
                        : 0.0f;
#pragma unroll
      for (int index = first_addend; index < 2; ++index) addends[index].add(loaded[j][index], values);
      Values result;
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const float value = ending.relu && values[k] <= 0.0f ? 0.0f : values[k];  // NaN stays NaN
        result.at[k] = device::from_float<Element>(value);
      }
      Element* pixel = out + row_offset(tail, to.out, row);
      device::global_store(reinterpret_cast<Values*>(pixel), result);
      to.template surround<Values>(tail, pixel, row);
    }
  }
}

template <class Element, int V, bool rows_first, class To, int first_addend>
DEVICE void store_slab(const Tail& tail, const To& to, TilePlace place, SharedOffset slab,
                       const Ending<first_addend>& ending) {
  using Share = Lanes<V, rows_first>;
  const int first = place.channel + warp_tile().column;
#pragma unroll 1
  for (int vector = device::lane_index() % Share::across; vector < Share::vectors; vector += Share::across)
    if (first + vector * V < to.out.channels)
      store_column<Element, V, rows_first>(tail, to, place, slab, vector * V, ending);
}

// Writes the tile. The stages must be free.
template <class Element, class To, int first_addend>
DEVICE void store_tile(const Tail& tail, const To& to, const Accumulators& sum, TilePlace place,
                       const Ending<first_addend>& ending) {
  const WarpTile tile = warp_tile();
  if (place.row + tile.row >= place.end || place.channel + tile.column >= to.out.channels) return;
  const SharedOffset slab = warp_slab();
  if constexpr (Ending<first_addend>::has_products) {
    fill_slab(sum, slab);
    device::warp_sync();
  }
  if (to.vectorised) {
    store_slab<Element, TileTraits<Element>::vector, false>(tail, to, place, slab, ending);
  } else if (to.out.stride_c == 1) {
    store_slab<Element, 1, false>(tail, to, place, slab, ending);
  } else {
    store_slab<Element, 1, true>(tail, to, place, slab, ending);
  }
}

}  // namespace fused_resnet
