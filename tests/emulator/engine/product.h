// Products of fragments; layouts in `csrc/device/matrix.cuh`.
#pragma once

#include <cstdint>

#include <engine/grid.h>
#include <engine/thread.h>
#include <engine/warp.h>

namespace fused_resnet::emulator {

struct Product {
  float* d;
  const std::uint32_t* a;
  const std::uint32_t* b;
};

// A row of the 16 x 8 accumulator, one vector register.
typedef float Row __attribute__((vector_size(32)));

// `Format` tells how registers hold elements: `depth`, the number of k, and element(register, half). A register holds
// `depth / 8` neighbours in k; registers that are 4 threads' worth of those apart follow each other.
template <class Format>
struct Fragments {
  static constexpr int per_register = Format::depth / 8;

  float a[16][Format::depth];
  Row b[Format::depth];

  explicit Fragments(const Warp& warp) {
    for (int lane = 0; lane < lanes; ++lane) {
      const int g = lane / 4, t = lane % 4;
      const auto& operand = *static_cast<const Product*>(warp.operands[lane]);
      for (int i = 0; i < per_register; ++i) {
        const int k = per_register * t + i, half = Format::depth / 2;
        a[g][k] = Format::element(operand.a[0], i);
        a[g + 8][k] = Format::element(operand.a[1], i);
        a[g][k + half] = Format::element(operand.a[2], i);
        a[g + 8][k + half] = Format::element(operand.a[3], i);
        b[k][g] = Format::element(operand.b[0], i);
        b[k + half][g] = Format::element(operand.b[1], i);
      }
    }
  }
};

// Exact products of 11 bits each, summed in single precision in the order of k.
template <class Format>
void multiply(Warp& warp) {
  const Fragments<Format> fragments(warp);
  for (int row = 0; row < 16; ++row) {
    const auto d = [&](int column) -> float& {
      const int lane = row % 8 * 4 + column / 2;
      return static_cast<const Product*>(warp.operands[lane])->d[row / 8 * 2 + column % 2];
    };
    Row sum;
    for (int column = 0; column < 8; ++column) sum[column] = d(column);
    for (int k = 0; k < Format::depth; ++k) sum += fragments.a[row][k] * fragments.b[k];
    for (int column = 0; column < 8; ++column) d(column) = sum[column];
  }
  grid.work.multiply_adds += 16 * 8 * Format::depth;
}

template <class Format>
void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], const Place& place) {
  const Product operand{d, a, b};
  meet(Instruction::product, {"mma", place}, &operand, multiply<Format>);
}

}  // namespace fused_resnet::emulator
