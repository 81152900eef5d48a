// The emulator's `csrc/device/matrix.cuh`, where the layouts of fragments are described.
#pragma once

#include <device/convert.cuh>
#include <device/memory.cuh>
#include <engine/matrix.h>
#include <engine/product.h>

namespace fused_resnet::device {

DEVICE void load_matrices(std::uint32_t (&r)[4], SharedOffset row, emulator::Place place = emulator::Place::here()) {
  emulator::load_matrices(r, row, place);
}

DEVICE void load_matrices_transposed(std::uint32_t (&r)[4], SharedOffset row,
                                     emulator::Place place = emulator::Place::here()) {
  emulator::load_matrices_transposed(r, row, place);
}

struct Tf32 {};

template <class Element>
DEVICE void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                emulator::Place place = emulator::Place::here());

// Operands packed two to a register.
template <class Element>
struct Pairs {
  static constexpr int depth = 16;
  static float element(std::uint32_t packed, int half) {
    return to_float(Element{static_cast<std::uint16_t>(packed >> 16 * half)});
  }
};

struct Singles {
  static constexpr int depth = 8;
  // Tensor cores ignore the 13 low bits.
  static float element(std::uint32_t bits, int) { return bits_float(bits & 0xffffe000u); }
};

template <>
DEVICE void mma<BFloat16>(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                          emulator::Place place) {
  emulator::mma<Pairs<BFloat16>>(d, a, b, place);
}
template <>
DEVICE void mma<Float16>(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2],
                         emulator::Place place) {
  emulator::mma<Pairs<Float16>>(d, a, b, place);
}
template <>
DEVICE void mma<Tf32>(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2], emulator::Place place) {
  emulator::mma<Singles>(d, a, b, place);
}

}  // namespace fused_resnet::device
