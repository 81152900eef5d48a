#include <engine/matrix.h>

#include <cstring>

#include <engine/memory.h>
#include <engine/thread.h>
#include <engine/warp.h>

namespace fused_resnet::emulator {
namespace {

struct Load {
  const char* row;
  std::uint32_t* r;
};

const Load& operand(const Warp& warp, int lane) { return *static_cast<const Load*>(warp.operands[lane]); }

std::uint16_t element(const Warp& warp, int matrix, int row, int column) {
  std::uint16_t value;
  std::memcpy(&value, operand(warp, 8 * matrix + row).row + 2 * column, sizeof(value));
  return value;
}

std::uint32_t pack(std::uint16_t low, std::uint16_t high) { return low | static_cast<std::uint32_t>(high) << 16; }

void load(Warp& warp) {
  for (int lane = 0; lane < lanes; ++lane) {
    for (int matrix = 0; matrix < 4; ++matrix) {
      std::memcpy(&operand(warp, lane).r[matrix], operand(warp, 8 * matrix + lane / 4).row + lane % 4 * 4, 4);
    }
  }
}

void load_transposed(Warp& warp) {
  for (int lane = 0; lane < lanes; ++lane) {
    const int row = lane % 4 * 2, column = lane / 4;
    for (int matrix = 0; matrix < 4; ++matrix) {
      operand(warp, lane).r[matrix] = pack(element(warp, matrix, row, column), element(warp, matrix, row + 1, column));
    }
  }
}

}  // namespace

void load_matrices(std::uint32_t (&r)[4], std::uint32_t row, const Place& place) {
  const Load operand{shared_read<16>(row, place), r};
  meet(Instruction::matrices, {"load_matrices", place}, &operand, load);
}

void load_matrices_transposed(std::uint32_t (&r)[4], std::uint32_t row, const Place& place) {
  const Load operand{shared_read<16>(row, place), r};
  meet(Instruction::transposed_matrices, {"load_matrices_transposed", place}, &operand, load_transposed);
}

}  // namespace fused_resnet::emulator
