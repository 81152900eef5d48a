// Products with matrices of floats, as exact as float32: of a weight with a covariance, and of a weight with itself.
//
// Tensor cores take a float as a sum of rounded numbers, of which products are added up: three bfloat16 have its 24
// bits, two tf32 have 22 of them. Half precision goes by bfloat16, whose range is float's; a float16 is two of these.
//
//   rows      d += a b^T            a holds rows of a weight, b rows of floats, both along the summed dimension
//   weighted  d += a^T (diag(s) b)  a and b hold rows of a weight, which are the summed dimension; s are floats
//
// A call sums over `depth`. The sums have the columns of the tensor cores' fragments, in their order.
#pragma once

#include <products.cuh>

namespace fused_resnet {

// A warp's share, in units of 16 x 8: 64 x 16. A column's floats are taken apart once for all rows, and that takes more
// instructions than its products.
constexpr int matrix_rows = 4, matrix_columns = 2;
using MatrixSums = FragmentSums<matrix_rows, matrix_columns>;

// Rows in shared memory, so many bytes apart.
template <int pitch>
struct SharedRows {
  SharedOffset first;

  DEVICE SharedOffset at(int row, int bytes) const { return first + row * pitch + bytes; }
};

// The parts whose sum is a fragment of floats, or of weights; the largest part first.
template <int count, int registers>
struct Parts {
  std::uint32_t of[count][registers];
};

// Adds the products of two fragments' parts, those below a float's precision left out; small ones first.
template <class Instruction, int a_parts, int b_parts>
DEVICE void multiply_parts(float (&d)[4], const Parts<a_parts, 4>& a, const Parts<b_parts, 2>& b) {
  constexpr int most = a_parts > b_parts ? a_parts : b_parts;
#pragma unroll
  for (int order = most - 1; order >= 0; --order)
#pragma unroll
    for (int i = 0; i < a_parts && i <= order; ++i)
      if (order - i < b_parts) device::mma<Instruction>(d, a.of[i], b.of[order - i]);
}

// Pairs of 16-bit numbers in a register.
template <class Element>
DEVICE Float2 unpack(std::uint32_t pair) {
  return {device::to_float(Element{static_cast<std::uint16_t>(pair & 0xffffu)}),
          device::to_float(Element{static_cast<std::uint16_t>(pair >> 16)})};
}

template <int count, int registers>
DEVICE Parts<count, registers> bfloat16_parts(Float2 (&floats)[registers]) {
  Parts<count, registers> parts;
#pragma unroll
  for (int i = 0; i < registers; ++i)
#pragma unroll
    for (int part = 0; part < count; ++part) {
      const std::uint32_t packed = device::pack<BFloat16>(floats[i].x, floats[i].y);
      const Float2 taken = unpack<BFloat16>(packed);
      floats[i] = {floats[i].x - taken.x, floats[i].y - taken.y};
      parts.of[part][i] = packed;
    }
  return parts;
}

// How many parts weights have, as they are in memory.
template <class Element>
constexpr int weight_parts = 1;
template <>
inline constexpr int weight_parts<Float16> = 2;

template <class Element, int registers>
DEVICE Parts<weight_parts<Element>, registers> packed_parts(const std::uint32_t (&packed)[registers]) {
  Parts<weight_parts<Element>, registers> parts;
  if constexpr (weight_parts<Element> == 1) {
#pragma unroll
    for (int i = 0; i < registers; ++i) parts.of[0][i] = packed[i];
    return parts;
  } else {
    Float2 floats[registers];
#pragma unroll
    for (int i = 0; i < registers; ++i) floats[i] = unpack<Element>(packed[i]);
    return bfloat16_parts<weight_parts<Element>>(floats);
  }
}

template <class Products>
struct ExactProducts;

template <class Element>
struct ExactProducts<HalfProducts<Element>> {
  static constexpr int depth = 16, float_parts = 3;

  template <int a_pitch, int b_pitch>
  DEVICE static void rows(MatrixSums& d, SharedRows<a_pitch> a, SharedRows<b_pitch> b, WarpTile tile) {
    const Lane lane;
    const SharedOffset a_lane = a.at(tile.row + device::lane_index() % 16, device::lane_index() / 16 * 16);
    Parts<float_parts, 2> right[matrix_columns];
#pragma unroll
    for (int n = 0; n < matrix_columns; ++n) {
      const int row = tile.column + n * 8 + lane.g;
      Float2 floats[2] = {device::shared_load<Float2>(b.at(row, 8 * lane.t)),
                          device::shared_load<Float2>(b.at(row, 8 * lane.t + 32))};
      right[n] = bfloat16_parts<float_parts>(floats);
    }
#pragma unroll
    for (int m = 0; m < matrix_rows; ++m) {
      std::uint32_t packed[4];
      device::load_matrices(packed, a_lane + m * 16 * a_pitch);
      const auto left = packed_parts<Element, 4>(packed);
#pragma unroll
      for (int n = 0; n < matrix_columns; ++n) multiply_parts<BFloat16>(d.values[m][n], left, right[n]);
    }
  }

  template <int pitch>
  DEVICE static void weighted(MatrixSums& d, SharedRows<pitch> a, SharedRows<pitch> b, SharedOffset s, WarpTile tile) {
    const int lane = device::lane_index();
    const SharedOffset a_lane = a.at(lane / 16 * 8 + lane % 8, 2 * tile.row + lane / 8 % 2 * 16);
    const SharedOffset b_lane = b.at(lane % 16, 2 * tile.column + lane / 16 * 16);
    const Float2 scales[2] = {device::shared_load<Float2>(s + 8 * Lane().t),
                              device::shared_load<Float2>(s + 8 * Lane().t + 32)};
    std::uint32_t packed[4];
    device::load_matrices_transposed(packed, b_lane);
    Parts<float_parts, 2> right[matrix_columns];
#pragma unroll
    for (int n = 0; n < matrix_columns; ++n) {
      Float2 floats[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const Float2 weights = unpack<Element>(packed[2 * n + i]);
        floats[i] = {weights.x * scales[i].x, weights.y * scales[i].y};
      }
      right[n] = bfloat16_parts<float_parts>(floats);
    }
#pragma unroll
    for (int m = 0; m < matrix_rows; ++m) {
      device::load_matrices_transposed(packed, a_lane + m * 32);
      const auto left = packed_parts<Element, 4>(packed);
#pragma unroll
      for (int n = 0; n < matrix_columns; ++n) multiply_parts<BFloat16>(d.values[m][n], left, right[n]);
    }
  }
};

// Weights are rounded to tf32, as everywhere.
template <int count, int registers>
DEVICE Parts<count, registers> tf32_parts(const float (&floats)[registers]) {
  Parts<count, registers> parts;
#pragma unroll
  for (int i = 0; i < registers; ++i) {
    float left = floats[i];
#pragma unroll
    for (int part = 0; part < count; ++part) {
      const float rounded = Tf32Products::operand(left);
      left -= rounded;
      parts.of[part][i] = device::float_bits(rounded);
    }
  }
  return parts;
}

template <>
struct ExactProducts<Tf32Products> {
  static constexpr int depth = 8, float_parts = 2;

  template <int a_pitch, int b_pitch>
  DEVICE static void rows(MatrixSums& d, SharedRows<a_pitch> a, SharedRows<b_pitch> b, WarpTile tile) {
    const Lane lane;
    Parts<1, 4> weights[matrix_rows];
#pragma unroll
    for (int m = 0; m < matrix_rows; ++m) {
      const auto near = device::shared_load<Float2>(a.at(tile.row + m * 16 + lane.g, 8 * lane.t));
      const auto far = device::shared_load<Float2>(a.at(tile.row + m * 16 + 8 + lane.g, 8 * lane.t));
      weights[m] = tf32_parts<1, 4>({near.x, far.x, near.y, far.y});
    }
#pragma unroll
    for (int n = 0; n < matrix_columns; ++n) {
      const auto floats = device::shared_load<Float2>(b.at(tile.column + n * 8 + lane.g, 8 * lane.t));
      const auto right = tf32_parts<float_parts, 2>({floats.x, floats.y});
#pragma unroll
      for (int m = 0; m < matrix_rows; ++m) multiply_parts<device::Tf32>(d.values[m][n], weights[m], right);
    }
  }

  template <int pitch>
  DEVICE static void weighted(MatrixSums& d, SharedRows<pitch> a, SharedRows<pitch> b, SharedOffset s, WarpTile tile) {
    const Lane lane;
    const auto near = device::shared_load<float>(s + 4 * lane.t), far = device::shared_load<float>(s + 4 * lane.t + 16);
    const auto weight = [&](SharedRows<pitch> rows, int k, int column) {
      return Tf32Products::operand(device::shared_load<float>(rows.at(k, 4 * (column + lane.g))));
    };
    Parts<1, 4> left[matrix_rows];
#pragma unroll
    for (int m = 0; m < matrix_rows; ++m) {
      const int row = tile.row + m * 16;
      left[m] = tf32_parts<1, 4>({weight(a, lane.t, row), weight(a, lane.t, row + 8), weight(a, lane.t + 4, row),
                                  weight(a, lane.t + 4, row + 8)});
    }
#pragma unroll
    for (int n = 0; n < matrix_columns; ++n) {
      const int column = tile.column + n * 8;
      const auto right =
          tf32_parts<float_parts, 2>({near * weight(b, lane.t, column), far * weight(b, lane.t + 4, column)});
#pragma unroll
      for (int m = 0; m < matrix_rows; ++m) multiply_parts<device::Tf32>(d.values[m][n], left[m], right);
    }
  }
};

// Float32 proper, on the CUDA cores.
template <>
struct ExactProducts<Float32Products> {
  static constexpr int depth = 8;

  template <int a_pitch, int b_pitch>
  DEVICE static void rows(MatrixSums& d, SharedRows<a_pitch> a, SharedRows<b_pitch> b, WarpTile tile) {
    const Lane lane;
#pragma unroll 1
    for (int k = 0; k < depth; k += 2) {
      Float2 left[matrix_rows][2];
#pragma unroll
      for (int m = 0; m < matrix_rows; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          left[m][half] = device::shared_load<Float2>(a.at(tile.row + m * 16 + half * 8 + lane.g, 4 * k));
#pragma unroll
      for (int n = 0; n < matrix_columns; ++n)
#pragma unroll
        for (int odd = 0; odd < 2; ++odd) {
          const auto right = device::shared_load<Float2>(b.at(tile.column + n * 8 + 2 * lane.t + odd, 4 * k));
          add(d, n, odd, left, right);
        }
    }
  }

  template <int pitch>
  DEVICE static void weighted(MatrixSums& d, SharedRows<pitch> a, SharedRows<pitch> b, SharedOffset s, WarpTile tile) {
    const Lane lane;
#pragma unroll 1
    for (int k = 0; k < depth; ++k) {
      const auto weight = device::shared_load<float>(s + 4 * k);
      float left[matrix_rows][2];
#pragma unroll
      for (int m = 0; m < matrix_rows; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half)
          left[m][half] = device::shared_load<float>(a.at(k, 4 * (tile.row + m * 16 + half * 8 + lane.g)));
#pragma unroll
      for (int n = 0; n < matrix_columns; ++n) {
        const auto pair = device::shared_load<Float2>(b.at(k, 4 * (tile.column + n * 8 + 2 * lane.t)));
        const Float2 right{weight * pair.x, weight * pair.y};
#pragma unroll
        for (int m = 0; m < matrix_rows; ++m)
#pragma unroll
          for (int half = 0; half < 2; ++half) {
            float* sums = &d.values[m][n][2 * half];
            sums[0] = device::fma(left[m][half], right.x, sums[0]);
            sums[1] = device::fma(left[m][half], right.y, sums[1]);
          }
      }
    }
  }

 private:
  DEVICE static void add(MatrixSums& d, int n, int odd, const Float2 (&left)[matrix_rows][2], Float2 right) {
#pragma unroll
    for (int m = 0; m < matrix_rows; ++m)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        float& sum = d.values[m][n][2 * half + odd];
        sum = device::fma(left[m][half].x, right.x, sum);
        sum = device::fma(left[m][half].y, right.y, sum);
      }
  }
};

}  // namespace fused_resnet
