// How a warp multiplies what a stage holds into its accumulators, for each way of computing products. All leave their
// results where the tensor cores do (`device/matrix.cuh`), so that there is one epilogue.
//
//   multiply   d += a b^T of two operands whose rows run along the summed dimension  (x W^T); a lane's columns are
//              those of LaneColumns
//   transposed d += (a - shift_a)^T (b - shift_b) of so many pixels of two stages    (x^T x; g^T x, without shift_a)
//   square     the same of a stage with itself, for a warp whose rows are among its columns, which it takes from
//              `first_column` on, around its 64
//
// `operand` rounds to what the tensor cores read (`exact_operands`: any float). A shift is a value near a channel's
// mean (moments.cuh). Floats are shifted where they lie, before `transposed`; halves on their way to the tensor cores,
// which is cheaper and as exact. Behind a relu shifts are zero as a rule: then nobody subtracts.
#pragma once

#include <device/matrix.cuh>
#include <pixels.cuh>

namespace fused_resnet {

struct Lane {
  int g, t;  // lane = 4 g + t

  DEVICE Lane() : Lane(device::lane_index()) {}

 private:
  DEVICE explicit Lane(int lane) : g(lane / 4), t(lane % 4) {}
};

// The columns that a lane holds when `multiply` is done. Columns of the tensor cores' fragments are dealt so that these
// are vectors of 16 bytes, side by side in memory: fragment n has columns 2t, 2t + 1 of lane t in its registers, which
// are channels 2 n and 2 n + 1 of the lane's vector (of the first group of four vectors, or two, and so on).
template <class Element>
struct LaneColumns {
  static constexpr int vector = TileTraits<Element>::vector;
  static constexpr int fragments = vector / 2;  // of a group: 64 bytes of each row
  static constexpr int groups = fragment_columns / fragments;
  static constexpr int group_columns = 4 * vector;

  // The lane's first column of a group, from the warp's first on.
  DEVICE static int first(int group) { return group * group_columns + device::lane_index() % 4 * vector; }
  // The column, from the warp's first on, that is column `column` of fragment 0; then how much further it is of others.
  DEVICE static constexpr int of_first_fragment(int column) { return column / 2 * vector + column % 2; }
  DEVICE static constexpr int further(int fragment) {
    return fragment / fragments * group_columns + fragment % fragments * 2;
  }
};

// The address that a lane gives to load_matrices for the 16 rows x 2 chunks of an operand from (row, chunk) on, in the
// order of the A fragment's matrices. `row` is a multiple of 32.
DEVICE SharedOffset a_piece(SharedOffset operand, int row, int chunk) {
  const int lane = device::lane_index();
  return operand + row_chunk(row + lane % 16, chunk + lane / 16);
}
// The same for the matrices of B fragments 0 and 1, two chunks of each, whose columns are rows of the operand.
template <class Element>
DEVICE SharedOffset b_piece(SharedOffset operand, int row, int chunk) {
  using Columns = LaneColumns<Element>;
  const int lane = device::lane_index();
  return operand +
         row_chunk(row + Columns::of_first_fragment(lane % 8) + Columns::further(lane / 16), chunk + lane / 8 % 2);
}

// Where a lane's pieces of a stage's operands lie, from the operands' beginnings on. Found once for many stages.
template <class Element>
struct Pieces {
  SharedOffset a, b;

  DEVICE explicit Pieces(WarpTile tile) : a(a_piece(0, tile.row, 0)), b(b_piece<Element>(0, tile.column, 0)) {}
};

// Products of stages on tensor cores: `Arithmetic` names the instruction and turns the registers that load_matrices
// brings into operands.
template <class Arithmetic>
DEVICE void multiply_on_tensor_cores(Accumulators& d, SharedOffset a, SharedOffset b,
                                     const Pieces<typename Arithmetic::Element>& pieces) {
  using Columns = LaneColumns<typename Arithmetic::Element>;
  // Operands begin at multiples of a row, so that chunks of these are found by bits of the sum.
  const SharedOffset a_first = a + pieces.a, b_first = b + pieces.b;
  // What is rounded on the way would lack registers on 8.0.
  constexpr int unrolled = is_half<typename Arithmetic::Element> ? 2 : 1;
#pragma unroll unrolled
  for (int chunk = 0; chunk < 4; chunk += 2) {
    const SharedOffset a_lane = chunk_further(a_first, chunk), b_lane = chunk_further(b_first, chunk);
    std::uint32_t a_fragments[fragment_rows][4];
#pragma unroll
    for (int m = 0; m < fragment_rows; ++m) {
      device::load_matrices(a_fragments[m], further_down(a_lane, 16 * m));
      Arithmetic::round(a_fragments[m]);
    }
#pragma unroll
    for (int n = 0; n < fragment_columns; n += 2) {
      std::uint32_t pair[4];
      device::load_matrices(pair, further_down(b_lane, Columns::further(n)));
      Arithmetic::round(pair);
      const std::uint32_t b_fragments[2][2] = {{pair[0], pair[1]}, {pair[2], pair[3]}};
#pragma unroll
      for (int m = 0; m < fragment_rows; ++m) {
        device::mma<typename Arithmetic::Instruction>(d.values[m][n], a_fragments[m], b_fragments[0]);
        device::mma<typename Arithmetic::Instruction>(d.values[m][n + 1], a_fragments[m], b_fragments[1]);
      }
    }
  }
}

template <class HalfElement>
struct HalfProducts {
  using Element = HalfElement;
  using Instruction = HalfElement;
  // x - shift is rounded to the element type again: it must be exact (moments.cuh, channel_shift).
  static constexpr bool exact_operands = false;
  static constexpr bool exact_shift_needed = true;
  static constexpr bool shifted_in_place = false;

  DEVICE static float operand(float x) { return x; }
  DEVICE static void round(std::uint32_t (&)[4]) {}

  DEVICE static void multiply(Accumulators& d, SharedOffset a, SharedOffset b, const Pieces<Element>& pieces) {
    multiply_on_tensor_cores<HalfProducts>(d, a, b, pieces);
  }

  // `a_shifts` and `b_shifts` are offsets of the operands' shifts in shared memory, floats. `shifted`: any is not zero.
  template <bool shift_a, int pixels, int pitch>
  DEVICE static void transposed(Accumulators& d, SharedOffset a, SharedOffset b, WarpTile tile, SharedOffset a_shifts,
                                SharedOffset b_shifts, bool shifted) {
    if (shifted) return transposed<shift_a, true, pixels, pitch>(d, a, b, tile, a_shifts, b_shifts);
    transposed<false, false, pixels, pitch>(d, a, b, tile, a_shifts, b_shifts);
  }

  DEVICE static int first_column(WarpTile tile) { return tile.row - tile.column; }

  template <int pixels, int pitch>
  DEVICE static void square(Accumulators& d, SharedOffset x, WarpTile tile, SharedOffset shifts, bool shifted) {
    if (shifted) return square<true, pixels, pitch>(d, x, tile, shifts);
    square<false, pixels, pitch>(d, x, tile, shifts);
  }

 private:
  template <bool shift_a, bool shift_b, int pixels, int pitch>
  DEVICE static void transposed(Accumulators& d, SharedOffset a, SharedOffset b, WarpTile tile, SharedOffset a_shifts,
                                SharedOffset b_shifts) {
    const int g = Lane().g;
    std::uint32_t rows[fragment_rows][2], columns[fragment_columns];
#pragma unroll
    for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        rows[m][half] = shift_a ? pair_of(a_shifts, tile.row + m * 16 + half * 8 + g) : 0;
#pragma unroll
    for (int n = 0; n < fragment_columns; ++n) columns[n] = shift_b ? pair_of(b_shifts, tile.column + n * 8 + g) : 0;
    const int lane = device::lane_index();
    // Rows of the stage are pixels, the summed dimension, so that both operands come transposed.
    const int a_lane = (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 16;
    const int b_lane = lane % 16 * pitch + lane / 16 * 16;
    // Shifted, the loop stays a loop: unrolled, it would lack registers on 9.0.
#pragma unroll shift_b ? 1 : pixels
    for (int k = 0; k < pixels; k += 16) {
      std::uint32_t a_fragments[fragment_rows][4];
#pragma unroll
      for (int m = 0; m < fragment_rows; ++m) {
        device::load_matrices_transposed(a_fragments[m], a + k * pitch + (tile.row + m * 16) * 2 + a_lane);
        if constexpr (shift_a) {
#pragma unroll
          for (int i = 0; i < 4; ++i)
            a_fragments[m][i] = device::subtract_packed<Element>(a_fragments[m][i], rows[m][i % 2]);
        }
      }
#pragma unroll
      for (int n = 0; n < fragment_columns; n += 2) {
        std::uint32_t pair[4];
        device::load_matrices_transposed(pair, b + k * pitch + (tile.column + n * 8) * 2 + b_lane);
        if constexpr (shift_b) {
#pragma unroll
          for (int i = 0; i < 4; ++i) pair[i] = device::subtract_packed<Element>(pair[i], columns[n + i / 2]);
        }
        const std::uint32_t b_fragments[2][2] = {{pair[0], pair[1]}, {pair[2], pair[3]}};
#pragma unroll
        for (int m = 0; m < fragment_rows; ++m) {
          device::mma<Element>(d.values[m][n], a_fragments[m], b_fragments[0]);
          device::mma<Element>(d.values[m][n + 1], a_fragments[m], b_fragments[1]);
        }
      }
    }
  }

  // Fragments of a's rows and of b's columns are the same registers: each comes from shared memory once. The warp's own
  // rows come first, so that they are known where the code is compiled.
  template <bool shift, int pixels, int pitch>
  DEVICE static void square(Accumulators& d, SharedOffset x, WarpTile tile, SharedOffset shifts) {
    constexpr int count = warp_columns / 16;
    const int first = first_column(tile), g = Lane().g, lane = device::lane_index();
    const auto channel = [&](int i) { return tile.column + (16 * i ^ first); };
    std::uint32_t subtracted[count][2];
#pragma unroll
    for (int i = 0; i < count; ++i)
#pragma unroll
      for (int half = 0; half < 2; ++half) subtracted[i][half] = shift ? pair_of(shifts, channel(i) + half * 8 + g) : 0;
    const SharedOffset from = x + (lane / 16 * 8 + lane % 8) * pitch + lane / 8 % 2 * 16;
#pragma unroll
    for (int k = 0; k < pixels; k += 16) {
      std::uint32_t fragments[count][4];
#pragma unroll
      for (int i = 0; i < count; ++i) {
        device::load_matrices_transposed(fragments[i], from + k * pitch + 2 * channel(i));
        if constexpr (shift) {
#pragma unroll
          for (int j = 0; j < 4; ++j)
            fragments[i][j] = device::subtract_packed<Element>(fragments[i][j], subtracted[i][j % 2]);
        }
      }
#pragma unroll
      for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
        for (int n = 0; n < fragment_columns; ++n)
          device::mma<Element>(d.values[m][n], fragments[m], {fragments[n / 2][n % 2], fragments[n / 2][n % 2 + 2]});
    }
  }

  // A channel's shift twice, as registers hold two pixels of a channel.
  DEVICE static std::uint32_t pair_of(SharedOffset shifts, int channel) {
    const std::uint32_t bits = device::from_float<Element>(device::shared_load<float>(shifts + 4 * channel)).bits;
    return bits << 16 | bits;
  }
};

struct Tf32Products {
  using Element = float;
  using Instruction = device::Tf32;
  static constexpr bool exact_operands = false;
  static constexpr bool exact_shift_needed = false;
  static constexpr bool shifted_in_place = true;

  DEVICE static float operand(float x) { return device::round_to_tf32(x); }
  DEVICE static void round(std::uint32_t (&registers)[4]) {
#pragma unroll
    for (int i = 0; i < 4; ++i) registers[i] = device::float_bits(operand(device::bits_float(registers[i])));
  }

  DEVICE static void multiply(Accumulators& d, SharedOffset a, SharedOffset b, const Pieces<Element>& pieces) {
    multiply_on_tensor_cores<Tf32Products>(d, a, b, pieces);
  }

  template <bool shift_a, int pixels, int pitch>
  DEVICE static void transposed(Accumulators& d, SharedOffset a, SharedOffset b, WarpTile tile, SharedOffset,
                                SharedOffset, bool) {
    const Lane lane;
#pragma unroll 1
    for (int k = 0; k < pixels; k += 8) {
      const SharedOffset a_lane = a + (k + lane.t) * pitch + (tile.row + lane.g) * 4;
      const SharedOffset b_lane = b + (k + lane.t) * pitch + (tile.column + lane.g) * 4;
      Split a_fragments[fragment_rows][4];
#pragma unroll
      for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
        for (int i = 0; i < 4; ++i) a_fragments[m][i] = split(a_lane + i / 2 * 4 * pitch + (m * 16 + i % 2 * 8) * 4);
#pragma unroll
      for (int n = 0; n < fragment_columns; ++n) {
        const Split b_fragment[2] = {split(b_lane + n * 8 * 4), split(b_lane + 4 * pitch + n * 8 * 4)};
#pragma unroll
        for (int m = 0; m < fragment_rows; ++m) multiply_split<shift_a>(d.values[m][n], a_fragments[m], b_fragment);
      }
    }
  }

  DEVICE static int first_column(WarpTile) { return 0; }

  template <int pixels, int pitch>
  DEVICE static void square(Accumulators& d, SharedOffset x, WarpTile tile, SharedOffset, bool) {
    transposed<true, pixels, pitch>(d, x, x, tile, 0, 0, false);
  }

 private:
  // x - shift is no tf32 number, and its rounding would show where the mean is large: high + low is it to 22 bits.
  struct Split {
    std::uint32_t high, low;
  };

  DEVICE static Split split(SharedOffset at) {
    const auto value = device::shared_load<float>(at);
    const float high = operand(value);
    return {device::float_bits(high), device::float_bits(operand(value - high))};
  }

  // Operands that are not shifted are tf32 numbers: they have no low part.
  template <bool split_a>
  DEVICE static void multiply_split(float (&d)[4], const Split (&a)[4], const Split (&b)[2]) {
    const std::uint32_t a_high[4] = {a[0].high, a[1].high, a[2].high, a[3].high};
    const std::uint32_t a_low[4] = {a[0].low, a[1].low, a[2].low, a[3].low};
    const std::uint32_t b_high[2] = {b[0].high, b[1].high}, b_low[2] = {b[0].low, b[1].low};
    if constexpr (split_a) device::mma<device::Tf32>(d, a_low, b_high);
    device::mma<device::Tf32>(d, a_high, b_low);
    device::mma<device::Tf32>(d, a_high, b_high);
  }
};

// Full float32 on the CUDA cores: a lane computes the elements that the tensor cores would leave with it.
struct Float32Products {
  using Element = float;
  static constexpr bool exact_operands = true;
  static constexpr bool exact_shift_needed = false;
  static constexpr bool shifted_in_place = true;

  DEVICE static float operand(float x) { return x; }

  DEVICE static void multiply(Accumulators& d, SharedOffset a, SharedOffset b, const Pieces<Element>&) {
    const Lane lane;
    const WarpTile tile = warp_tile();
    // Two k at a time: more would not leave registers for two blocks a multiprocessor.
#pragma unroll 1
    for (int k = 0; k < TileTraits<float>::depth; k += 2) {
      const SharedOffset a_lane = a + row_element<float>(tile.row + lane.g, k);
      const SharedOffset b_lane = b + row_element<float>(tile.column + LaneColumns<float>::first(0), k);
      Float2 rows[fragment_rows][2];
#pragma unroll
      for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          rows[m][half] = device::shared_load<Float2>(further_down(a_lane, 16 * m + 8 * half));
#pragma unroll
      for (int n = 0; n < fragment_columns; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          const auto column = device::shared_load<Float2>(further_down(b_lane, LaneColumns<float>::further(n) + odd));
#pragma unroll
          for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              float& sum = d.values[m][n][2 * half + odd];
              sum = device::fma(rows[m][half].x, column.x, sum);
              sum = device::fma(rows[m][half].y, column.y, sum);
            }
        }
    }
  }

  template <bool shift_a, int pixels, int pitch>
  DEVICE static void transposed(Accumulators& d, SharedOffset a, SharedOffset b, WarpTile tile, SharedOffset,
                                SharedOffset, bool) {
    const Lane lane;
#pragma unroll 1
    for (int k = 0; k < pixels; ++k) {
      float rows[fragment_rows][2];
#pragma unroll
      for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          rows[m][half] = device::shared_load<float>(a + k * pitch + (tile.row + m * 16 + half * 8 + lane.g) * 4);
#pragma unroll
      for (int n = 0; n < fragment_columns; ++n) {
        const auto columns = device::shared_load<Float2>(b + k * pitch + (tile.column + n * 8 + 2 * lane.t) * 4);
#pragma unroll
        for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float* sums = &d.values[m][n][2 * half];
            sums[0] = device::fma(rows[m][half], columns.x, sums[0]);
            sums[1] = device::fma(rows[m][half], columns.y, sums[1]);
          }
      }
    }
  }

  DEVICE static int first_column(WarpTile) { return 0; }

  template <int pixels, int pitch>
  DEVICE static void square(Accumulators& d, SharedOffset x, WarpTile tile, SharedOffset, bool) {
    transposed<true, pixels, pitch>(d, x, x, tile, 0, 0, false);
  }
};

}  // namespace fused_resnet
