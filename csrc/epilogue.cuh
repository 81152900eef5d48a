// From accumulators to memory. A warp's tile passes through its own slab of shared memory, so that neighbouring lanes
// write neighbouring elements: channels where these lie side by side, 16 bytes a lane where the layout allows, pixels
// otherwise.
#pragma once

#include <pixels.cuh>

namespace fused_resnet {

// A vector of (C), of one of several types; `absent` where there is none.
DEVICE float vector_element(const void* vector, ElementType type, int i, float absent) {
  if (vector == nullptr) return absent;
  switch (type) {
    case ElementType::bfloat16:
      return device::to_float(device::global_load(static_cast<const BFloat16*>(vector) + i));
    case ElementType::float16:
      return device::to_float(device::global_load(static_cast<const Float16*>(vector) + i));
    default:
      return device::global_load(static_cast<const float*>(vector) + i);
  }
}

// (x - centre) * scale + shift: a branch's norm, or a projection's bias, for one channel.
struct Affine {
  float centre, scale, shift;

  DEVICE float operator()(float x) const { return device::fma(x - centre, scale, shift); }
};

template <class Element>
DEVICE Affine affine(const Branch& branch, int channel) {
  const float bias = branch.bias == nullptr
                         ? 0.0f
                         : device::to_float(device::global_load(static_cast<const Element*>(branch.bias) + channel));
  if (branch.statistics == Statistics::none) return {0.0f, 1.0f, bias};
  const Norm& norm = branch.norm;
  float mean, var;
  if (branch.statistics == Statistics::running) {
    mean = vector_element(norm.running_mean, norm.type, channel, 0.0f) - bias;
    var = vector_element(norm.running_var, norm.type, channel, 1.0f);
  } else {
    mean = device::global_load(branch.mean + channel);
    var = device::global_load(branch.var + channel);
  }
  const float gamma = vector_element(norm.weight, norm.type, channel, 1.0f);
  return {mean, gamma * device::inverse_square_root(var + norm.eps),
          vector_element(norm.bias, norm.type, channel, 0.0f)};
}

// Affines of both branches for the tile's channels, in shared memory.
struct Affines {
  DEVICE static device::SharedOffset offset(int branch, int part, int column) {
    return vectors_offset + 4 * ((branch * 3 + part) * tile_columns + column);
  }

  template <class Element>
  DEVICE static void prepare(const Tail& tail, int first_channel) {
    const int index = device::thread_index() / tile_columns, column = device::thread_index() % tile_columns;
    const Branch& branch = tail.branches[index];
    const bool exists = branch.source != Source::none && first_channel + column < tail.channels;
    const Affine a = exists ? affine<Element>(branch, first_channel + column) : Affine{0.0f, 0.0f, 0.0f};
    device::shared_store(offset(index, 0, column), a.centre);
    device::shared_store(offset(index, 1, column), a.scale);
    device::shared_store(offset(index, 2, column), a.shift);
  }

  // Of neighbouring columns, from a multiple of their number on.
  template <int count>
  DEVICE static void load(int branch, int column, Affine (&affines)[count]) {
    struct alignas(4 * count) Floats {
      float at[count];
    };
    const auto centres = device::shared_load<Floats>(offset(branch, 0, column));
    const auto scales = device::shared_load<Floats>(offset(branch, 1, column));
    const auto shifts = device::shared_load<Floats>(offset(branch, 2, column));
#pragma unroll
    for (int i = 0; i < count; ++i) affines[i] = {centres.at[i], scales.at[i], shifts.at[i]};
  }
};
static_assert(block_threads == 2 * tile_columns, "a thread prepares one channel of one branch");

// A source that is no product as one lane adds it: `V` neighbouring channels of any row.
template <class Element, int V>
struct SourceColumn {
  struct alignas(sizeof(Element) * V) Values {
    Element at[V];
  };

  const Activations& x;
  // Of row 0. Null where the source has zeros, which in vectors begin and end at multiples of V.
  const Element* channel;
  int index, column;
  bool normed;

  // Branch `branch_index` from channel `first` on, which is column `tile_column` of the tile.
  DEVICE SourceColumn(const Tail& tail, int branch_index, int first, int tile_column)
      : x(tail.branches[branch_index].statistics == Statistics::product ? tail.branches[branch_index].materialised
                                                                        : tail.branches[branch_index].x),
        channel(nullptr),
        index(branch_index),
        column(tile_column),
        normed(tail.branches[branch_index].statistics != Statistics::none) {
    const Branch& branch = tail.branches[branch_index];
    const int from = first - branch.channels_before;
    if (branch.source != Source::none && from >= 0 && from < x.channels)
      channel = static_cast<const Element*>(x.data) + from * x.stride_c;
  }

  DEVICE Values load(const Tail& tail, int row) const {
    if (channel == nullptr) return {};
    return device::global_load(reinterpret_cast<const Values*>(channel + row_offset(tail, x, row)));
  }

  DEVICE void add(const Values& source, float (&values)[V]) const {
    if (channel == nullptr) return;
    if (!normed) {
#pragma unroll
      for (int i = 0; i < V; ++i) values[i] += device::to_float(source.at[i]);
      return;
    }
    // From shared memory for each row: in registers they would cost accumulators theirs.
    constexpr int step = V < 4 ? V : 4;
#pragma unroll
    for (int i = 0; i < V; i += step) {
      Affine affines[step];
      Affines::load(index, column + i, affines);
#pragma unroll
      for (int j = 0; j < step; ++j) values[i + j] += affines[j](device::to_float(source.at[i + j]));
    }
  }
};

// Rows up to `end` of the tile at (row, channel).
struct TilePlace {
  int row, end, channel;
};

DEVICE device::SharedOffset warp_slab() { return device::warp_index() * slab_bytes; }

// Puts the warp's accumulators into its slab, row by row.
DEVICE void fill_slab(const Accumulators& sum, device::SharedOffset slab) {
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

// What becomes of a tile on its way to memory: the sources of branches from `first_source` on are added, then relu.
template <int first_source>
struct Ending {
  // There is something in the accumulators: products come first among the branches.
  static constexpr bool has_products = first_source > 0;
  bool relu;
};

// How lanes share a slab: neighbouring lanes take neighbouring rows, or neighbouring vectors of channels.
template <int V, bool rows_first>
struct Lanes {
  static constexpr int vectors = warp_columns / V;
  static constexpr int across = rows_first ? 1 : vectors < device::warp_size ? vectors : device::warp_size;
  static constexpr int down = device::warp_size / across;
  // Rows whose sources a lane loads before it uses the first of them.
  static constexpr int batch = V > 1 ? 2 : 1;
  static_assert(warp_rows % (down * batch) == 0);
};

// Writes `V` channels of the slab's rows, from column `column` of the tile on.
template <class Element, int V, bool rows_first, int first_source>
DEVICE void store_column(const Tail& tail, const Activations& out, TilePlace place, device::SharedOffset slab,
                         int column, Ending<first_source> ending) {
  using Sources = SourceColumn<Element, V>;
  using Values = typename Sources::Values;
  using Share = Lanes<V, rows_first>;
  const WarpTile tile = warp_tile();
  const int channel = place.channel + tile.column + column;
  const Sources sources[2] = {{tail, 0, channel, tile.column + column}, {tail, 1, channel, tile.column + column}};
  auto* to = static_cast<Element*>(out.data) + channel * out.stride_c;
#pragma unroll 1
  for (int first = device::lane_index() / Share::across; first < warp_rows; first += Share::down * Share::batch) {
    Values loaded[Share::batch][2];
#pragma unroll
    for (int j = 0; j < Share::batch; ++j) {
      const int row = place.row + tile.row + first + j * Share::down;
#pragma unroll
      for (int index = first_source; index < 2; ++index)
        loaded[j][index] = row < place.end ? sources[index].load(tail, row) : Values{};
    }
#pragma unroll
    for (int j = 0; j < Share::batch; ++j) {
      const int slab_row = first + j * Share::down, row = place.row + tile.row + slab_row;
      if (row >= place.end) continue;
      float values[V];
#pragma unroll
      for (int k = 0; k < V; ++k)
        values[k] = Ending<first_source>::has_products
                        ? device::shared_load<float>(slab + 4 * (slab_row * slab_pitch + column + k))
                        : 0.0f;
#pragma unroll
      for (int index = first_source; index < 2; ++index) sources[index].add(loaded[j][index], values);
      Values result;
#pragma unroll
      for (int k = 0; k < V; ++k) {
        const float value = ending.relu && values[k] <= 0.0f ? 0.0f : values[k];  // NaN stays NaN
        result.at[k] = device::from_float<Element>(value);
      }
      device::global_store(reinterpret_cast<Values*>(to + row_offset(tail, out, row)), result);
    }
  }
}

template <class Element, int V, bool rows_first, int first_source>
DEVICE void store_slab(const Tail& tail, const Activations& out, TilePlace place, device::SharedOffset slab,
                       Ending<first_source> ending) {
  using Share = Lanes<V, rows_first>;
  const int first = place.channel + warp_tile().column;
#pragma unroll 1
  for (int vector = device::lane_index() % Share::across; vector < Share::vectors; vector += Share::across)
    if (first + vector * V < out.channels)
      store_column<Element, V, rows_first>(tail, out, place, slab, vector * V, ending);
}

// Writes the tile to `out`. The stages must be free.
template <class Element, int first_source>
DEVICE void store_tile(const Tail& tail, const Activations& out, bool vectorised, const Accumulators& sum,
                       TilePlace place, Ending<first_source> ending) {
  const WarpTile tile = warp_tile();
  if (place.row + tile.row >= place.end || place.channel + tile.column >= out.channels) return;
  const device::SharedOffset slab = warp_slab();
  if constexpr (Ending<first_source>::has_products) {
    fill_slab(sum, slab);
    device::warp_sync();
  }
  if (vectorised) {
    store_slab<Element, TileTraits<Element>::vector, false>(tail, out, place, slab, ending);
  } else if (out.stride_c == 1) {
    store_slab<Element, 1, false>(tail, out, place, slab, ending);
  } else {
    store_slab<Element, 1, true>(tail, out, place, slab, ending);
  }
}

}  // namespace fused_resnet
