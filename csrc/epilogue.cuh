// What becomes of the accumulators on their way to memory. A lane holds vectors of neighbouring channels (LaneColumns):
// it writes them 16 bytes at once where the layout allows, and finds what is added to them 16 bytes at once in a stage.
#pragma once

#include <affine.cuh>
#include <mask.cuh>
#include <products.cuh>

namespace fused_resnet {

template <class Element, int V>
struct alignas(sizeof(Element) * V) Channels {
  Element at[V];
};

// Calls `run(row, group, values)` for the warp's rows, in the tile, and each group's vector of the lane.
template <class Element, class Sums, class Run>
DEVICE void for_each_vector(Sums& sum, Run run) {
  using Columns = LaneColumns<Element>;
  const int first = warp_tile().row + Lane().g;
#pragma unroll
  for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half)
#pragma unroll
      for (int group = 0; group < Columns::groups; ++group) {
        const auto value = [&](int i) -> auto& {
          return sum.values[m][group * Columns::fragments + i / 2][2 * half + i % 2];
        };
        run(first + m * 16 + half * 8, group, value);
      }
}

// sum = affine(sum) for the tile.
template <class Element>
DEVICE void apply_affine(Accumulators& sum, int index) {
  using Columns = LaneColumns<Element>;
  // Four channels at a time: more would cost the accumulators their registers.
  constexpr int step = 4;
  const int first = warp_tile().column;
#pragma unroll
  for (int group = 0; group < Columns::groups; ++group)
#pragma unroll
    for (int part = 0; part < Columns::vector; part += step) {
      Affine affines[step];
      Affines::load(index, first + Columns::first(group) + part, affines);
#pragma unroll
      for (int i = 0; i < step; ++i) {
        const int n = group * Columns::fragments + (part + i) / 2;
#pragma unroll
        for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int at = 2 * half + i % 2;
            sum.values[m][n][at] = affines[i](sum.values[m][n][at]);
          }
      }
    }
}

// A tensor that is added to the sum, through its affine. A stage holds one group of both warps' columns, an operand
// each.
template <class Element>
struct Addend {
  using Columns = LaneColumns<Element>;
  static constexpr int steps = Columns::groups;

  const Activations& x;
  int channels_before;  // of y's, ahead of x's own

  // Starts the copies of a step; the tile begins at (row, channel).
  DEVICE void copy(const Tail& tail, int row, int channel, int step, SharedOffset stage) const {
#pragma unroll 1
    for (int half = 0; half < warp_grid_columns; ++half)
      copy_pixel_rows<Element>(tail, x, row,
                               channel - channels_before + half * warp_columns + step * Columns::group_columns,
                               stage + half * operand_bytes);
  }

  // Adds what a step brought; `channel` is the tile's first. Channels that x does not have add nothing, whatever the
  // affine.
  DEVICE void add(int step, int index, int channel, SharedOffset stage, Accumulators& sum) const {
    const Lane lane;
    const WarpTile tile = warp_tile();
    const SharedOffset own = stage + tile.column / warp_columns * operand_bytes + row_chunk(tile.row + lane.g, lane.t);
#pragma unroll
    for (int group = 0; group < Columns::groups; ++group) {
      if (group != step) continue;  // accumulators are registers, which no variable can choose
      const int column = tile.column + Columns::first(group);
      const int own_channel = channel + column - channels_before;
      // Four channels at a time: more would cost the accumulators their registers.
#pragma unroll
      for (int part = 0; part < Columns::vector; part += 4) {
        Affine affines[4];
        Affines::load(index, column + part, affines);
#pragma unroll
        for (int i = 0; i < 4; ++i)
          if (own_channel + part + i < 0 || own_channel + part + i >= x.channels) affines[i] = {0.0f, 0.0f, 0.0f};
#pragma unroll
        for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const SharedOffset at = further_down(own, m * 16 + half * 8) + part * static_cast<int>(sizeof(Element));
            const auto four = device::shared_load<Channels<Element, 4>>(at);
#pragma unroll
            for (int i = 0; i < 4; ++i)
              sum.values[m][group * Columns::fragments + (part + i) / 2][2 * half + i % 2] +=
                  affines[i](device::to_float(four.at[i]));
          }
      }
    }
  }
};

DEVICE float rectified(float x) { return x <= 0.0f ? 0.0f : x; }  // NaN stays NaN

// Calls `store(pixel, channel, values)` for the lane's vectors of the tile that are in `to`. The output of a relu
// leaves its mask, where it is kept.
template <class Element, class Store>
DEVICE void for_each_stored(const Tail& tail, const Activations& to, const Accumulators& sum, TilePlace place,
                            bool relu, Store store) {
  using Columns = LaneColumns<Element>;
  const int first = place.channel + warp_tile().column;
  for_each_vector<Element>(sum, [&](int tile_row, int group, auto value) {
    const int row = place.row + tile_row, channel = first + Columns::first(group);
    if (row >= place.end || channel >= to.channels) return;
    Vector16<Element> result;
#pragma unroll
    for (int i = 0; i < Columns::vector; ++i)
      result.values[i] = device::from_float<Element>(relu ? rectified(value(i)) : value(i));
    if (relu && tail.mask.bytes != nullptr)
      device::global_store(mask_place<Element>(tail.mask, row, channel), mask_byte(result.values));
    store(static_cast<Element*>(to.data) + row_offset(tail, to, row) + channel * to.stride_c, channel, result);
  });
}

// Writes the tile to `to`, whose pixels are the rows, through a relu or not.
template <class Element>
DEVICE void store_tile(const Tail& tail, const Activations& to, const Accumulators& sum, TilePlace place, bool relu) {
  using Vector = Vector16<Element>;
  if (to.vectorised)
    return for_each_stored<Element>(tail, to, sum, place, relu, [](Element* pixel, int, const Vector& result) {
      device::global_store(reinterpret_cast<Vector*>(pixel), result);
    });
  const std::int64_t stride = device::unforeseen(to.stride_c);
  for_each_stored<Element>(tail, to, sum, place, relu, [&](Element* pixel, int channel, const Vector& result) {
#pragma unroll
    for (int i = 0; i < Vector::size; ++i)
      if (channel + i < to.channels) device::global_store(pixel + i * stride, result.values[i]);
  });
}

}  // namespace fused_resnet
