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

  DEVICE static Affine load(int branch, int column) {
    return {device::shared_load<float>(offset(branch, 0, column)),
            device::shared_load<float>(offset(branch, 1, column)),
            device::shared_load<float>(offset(branch, 2, column))};
  }
};
static_assert(block_threads == 2 * tile_columns, "a thread prepares one channel of one branch");

// Adds a source that is no product to `values`, `V` channels from `channel` on (tile column `column`) of a row.
template <class Element, int V>
DEVICE void add_source(const Tail& tail, int index, int row, int channel, int column, float (&values)[V]) {
  const Branch& branch = tail.branches[index];
  const Activations& x = branch.statistics == Statistics::product ? branch.materialised : branch.x;
  const int from = channel - branch.channels_before;
  if (from < 0 || from >= x.channels) return;  // zeros; in vectors, these begin and end at multiples of V
  const Element* pointer = row_pointer<Element>(tail, x, row) + from * x.stride_c;
  Element source[V];
  if constexpr (V == 1) {
    source[0] = device::global_load(pointer);
  } else {
    const auto vector = device::global_load(reinterpret_cast<const Vector16<Element>*>(pointer));
#pragma unroll
    for (int i = 0; i < V; ++i) source[i] = vector.values[i];
  }
#pragma unroll
  for (int i = 0; i < V; ++i) {
    const float value = device::to_float(source[i]);
    values[i] += branch.statistics == Statistics::none ? value : Affines::load(index, column + i)(value);
  }
}

// What becomes of a tile of `products` summed products on its way to y: the other sources and relu.
template <int products>
struct ToOutput {
  const Tail& tail;

  template <class Element, int V>
  DEVICE void apply(int row, int channel, int column, float (&values)[V]) const {
#pragma unroll
    for (int index = products; index < 2; ++index)
      if (tail.branches[index].source != Source::none) add_source<Element>(tail, index, row, channel, column, values);
    if (!tail.relu) return;
#pragma unroll
    for (int i = 0; i < V; ++i) values[i] = values[i] <= 0.0f ? 0.0f : values[i];  // NaN stays NaN
  }
};

struct Unchanged {
  template <class Element, int V>
  DEVICE void apply(int, int, int, float (&)[V]) const {}
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

// Writes `V` channels of a row.
template <class Element, int V>
DEVICE void store_vector(Element* to, const float (&values)[V]) {
  if constexpr (V == 1) {
    device::global_store(to, device::from_float<Element>(values[0]));
  } else {
    Vector16<Element> vector;
#pragma unroll
    for (int k = 0; k < V; ++k) vector.values[k] = device::from_float<Element>(values[k]);
    device::global_store(reinterpret_cast<Vector16<Element>*>(to), vector);
  }
}

// Writes the slab, `V` channels a lane at a time; neighbouring lanes take neighbouring rows or neighbouring channels.
template <class Element, int V, bool rows_first, class Change>
DEVICE void store_slab(const Tail& tail, const Activations& out, TilePlace place, device::SharedOffset slab,
                       const Change& change) {
  constexpr int vectors = warp_columns / V;
  const WarpTile tile = warp_tile();
#pragma unroll 2
  for (int i = device::lane_index(); i < warp_rows * vectors; i += device::warp_size) {
    const int slab_row = rows_first ? i % warp_rows : i / vectors;
    const int slab_column = (rows_first ? i / warp_rows : i % vectors) * V;
    const int row = place.row + tile.row + slab_row, column = tile.column + slab_column;
    if (row >= place.end || place.channel + column >= out.channels) continue;
    float values[V];
#pragma unroll
    for (int k = 0; k < V; ++k)
      values[k] = device::shared_load<float>(slab + 4 * (slab_row * slab_pitch + slab_column + k));
    change.template apply<Element>(row, place.channel + column, column, values);
    store_vector(static_cast<Element*>(out.data) + row_offset(tail, out, row) + (place.channel + column) * out.stride_c,
                 values);
  }
}

// Writes the tile to `out`, after `change`. The stages must be free.
template <class Element, class Change>
DEVICE void store_tile(const Tail& tail, const Activations& out, bool vectorised, const Accumulators& sum,
                       TilePlace place, const Change& change) {
  const WarpTile tile = warp_tile();
  if (place.row + tile.row >= place.end || place.channel + tile.column >= out.channels) return;
  const device::SharedOffset slab = warp_slab();
  fill_slab(sum, slab);
  device::warp_sync();
  if (vectorised) {
    store_slab<Element, TileTraits<Element>::vector, false>(tail, out, place, slab, change);
  } else if (out.stride_c == 1) {
    store_slab<Element, 1, false>(tail, out, place, slab, change);
  } else {
    store_slab<Element, 1, true>(tail, out, place, slab, change);
  }
}

}  // namespace fused_resnet
