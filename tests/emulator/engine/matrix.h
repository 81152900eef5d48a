// Loads of matrix fragments; layouts in `csrc/device/matrix.cuh`.
#pragma once

#include <cstdint>

#include <engine/place.h>

namespace fused_resnet::emulator {

void load_matrices(std::uint32_t (&r)[4], std::uint32_t row, const Place& place);
void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t row, const Place& place);

}  // namespace fused_resnet::emulator
