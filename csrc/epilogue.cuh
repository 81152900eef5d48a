// What becomes of the accumulators on their way to memory. A lane holds vectors of neighbouring channels (LaneColumns):
// it writes them 16 bytes at once where the layout allows, and finds what is added to them 16 bytes at once in a stage.
#pragma once

#include <affine.cuh>
#include <mask.cuh>
#include <products.cuh>
#include <row_stages.cuh>

namespace fused_resnet {

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
      const auto affines = Affines::load<step>(index, first + Columns::first(group) + part);
#pragma unroll
      for (int i = 0; i < step; ++i) {
        const int n = group * Columns::fragments + (part + i) / 2;
#pragma unroll
        for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            const int at = 2 * half + i % 2;
            sum.values[m][n][at] = affines.at[i](sum.values[m][n][at]);
          }
      }
    }
}

// A tensor that is added to the sum, as it is or through a norm. A stage holds one group of both warps' columns, an
// operand each, and a step two of them; channels that it does not have are zeros.
template <class Element>
struct Addend {
  using Columns = LaneColumns<Element>;
  static constexpr int steps = Columns::groups / step_stages;
  // Channels at a time: more would cost the accumulators their registers.
  static constexpr int part = 4;

  const Activations& x;
  int channels_before;  // of y's, ahead of x's own
  bool normed;          // never where x lacks channels

  // Whether all steps of the tile are of rows that `RowStages` copies: both warps' columns, an operand each.
  DEVICE bool streams(int channel) const {
    return x.vectorised && channels_before == 0 && channel + tile_columns <= x.channels;
  }
  DEVICE void begin(RowStages<Element>& stages, const Tail& tail, int row, int channel) const {
    if (!streams(channel)) return stages.leave();
    const auto pixel = [&](int own, int column) {
      return OperandRow<Element>{row_pointer<Element>(tail, x, row + own) + channel + column, own < tail.rows - row};
    };
    stages.begin([&](int own) { return pixel(own, 0); },
                 [&](int part, int own) { return pixel(part * RowStages<Element>::half + own, warp_columns); });
  }

  // Starts the copies of a step; the tile begins at (row, channel).
  DEVICE void copy(const Tail& tail, int row, int channel, int step, SharedOffset stage) const {
    int first = channel - channels_before + step * step_stages * Columns::group_columns;
    for_each_stage(stage, [&](SharedOffset to) {
      copy_pixel_rows<Element, warp_grid_columns>(tail, x, row, first, to);
      first += Columns::group_columns;
    });
  }

  // Adds what a step brought. `index`: of the norm's affine.
  DEVICE void add(int step, int index, SharedOffset stage, Accumulators& sum) const {
#pragma unroll
    for (int group = 0; group < Columns::groups; ++group) {
      if (group / step_stages != step) continue;  // accumulators are registers, which no variable can choose
      const SharedOffset from = stage + group % step_stages * stage_bytes;
      if (!normed) {
        add_group(group, from, sum, [](int) { return [](int, float value) { return value; }; });
        continue;
      }
      add_group(group, from, sum, [index](int column) {
        return [affines = Affines::load<part>(index, column)](int i, float value) { return affines.at[i](value); };
      });
    }
  }

 private:
  // Adds `of(column)(i, value)` of channel column + i, for all parts of a group.
  template <class Of>
  DEVICE static void add_group(int group, SharedOffset stage, Accumulators& sum, Of of) {
    const Lane lane;
    const WarpTile tile = warp_tile();
    const SharedOffset own = stage + tile.column / warp_columns * operand_bytes + row_chunk(tile.row + lane.g, lane.t);
#pragma unroll
    for (int first = 0; first < Columns::vector; first += part) {
      const auto added = of(tile.column + Columns::first(group) + first);
#pragma unroll
      for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const SharedOffset at = further_down(own, m * 16 + half * 8) + first * static_cast<int>(sizeof(Element));
          const auto four = device::shared_load<Channels<Element, part>>(at);
          float values[part];
          float_values(four.at, 0, values);
#pragma unroll
          for (int i = 0; i < part; ++i)
            sum.values[m][group * Columns::fragments + (first + i) / 2][2 * half + i % 2] += added(i, values[i]);
        }
    }
  }
};

// Calls `store(pointer, channel, values)` for the lane's vectors of the tile that are in `to`, whose channels are
// `stride` elements apart. The output of a relu leaves its mask, where it is kept.
template <class Element, class Store>
DEVICE void for_each_stored(const Tail& tail, const Activations& to, const Accumulators& sum, TilePlace place,
                            bool relu, std::int64_t stride, Store store) {
  using Columns = LaneColumns<Element>;
  const WarpTile own = warp_tile();
  const int first_row = place.row + own.row + Lane().g, first_channel = place.channel + own.column + Columns::first(0);
  const bool masks = relu && tail.mask.bytes != nullptr;
  Element* pixel = static_cast<Element*>(to.data) + row_offset(tail, to, first_row) + first_channel * stride;
  std::uint8_t* mask = masks ? mask_place<Element>(tail.mask, first_row, first_channel) : nullptr;
#pragma unroll
  for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
    for (int half = 0; half < 2; ++half) {
      const int row = first_row + m * 16 + half * 8;
      if (!to.dense) pixel = static_cast<Element*>(to.data) + row_offset(tail, to, row) + first_channel * stride;
#pragma unroll
      for (int group = 0; group < Columns::groups; ++group) {
        const int channel = first_channel + group * Columns::group_columns;
        Vector16<Element> result;
        round_values<Columns::vector>(result.values, 0, relu, [&](int i) {
          return sum.values[m][group * Columns::fragments + i / 2][2 * half + i % 2];
        });
        if (row >= tail.rows || channel >= to.channels) continue;
        if (masks)
          device::global_store(mask + group * Columns::group_columns / Columns::vector, mask_byte(result.values));
        store(pixel + group * Columns::group_columns * stride, channel, result);
      }
      // The lane's next row, if rows are dense.
      pixel += 8 * to.stride_w;
      if (masks) mask += 8 * tail.mask.pitch;
    }
}

// Writes the tile to `to`, whose pixels are the rows, through a relu or not.
template <class Element>
DEVICE void store_tile(const Tail& tail, const Activations& to, const Accumulators& sum, TilePlace place, bool relu) {
  using Vector = Vector16<Element>;
  if (to.vectorised)
    return for_each_stored<Element>(tail, to, sum, place, relu, 1, [](Element* at, int, const Vector& result) {
      device::global_store(reinterpret_cast<Vector*>(at), result);
    });
  const std::int64_t stride = device::unforeseen(to.stride_c);
  for_each_stored<Element>(tail, to, sum, place, relu, stride, [&](Element* at, int channel, const Vector& result) {
#pragma unroll
    for (int i = 0; i < Vector::size; ++i)
      if (channel + i < to.channels) device::global_store(at + i * stride, result.values[i]);
  });
}

}  // namespace fused_resnet
