// Stages of rows, step after step along the summed dimension.
#pragma once

#include <pixels.cuh>

namespace fused_resnet {

// A row of an operand: where it begins, if it exists.
template <class Element>
struct OperandRow {
  const Element* begin;
  bool exists;
};

// A step has 128 bytes of each row.
template <class Element>
constexpr int step_depth = step_stages * TileTraits<Element>::depth;

// Calls `run(stage)` for the stages of a step: once compiled, for what is in no hurry.
template <class Run>
DEVICE void for_each_stage(SharedOffset step, Run run) {
#pragma unroll 1
  for (int part = 0; part < step_stages; ++part) run(step + part * stage_bytes);
}

// A thread's chunks of step after step, two of each operand a stage, where all of a row's steps have 128 bytes that
// come 16 at a time. Its addresses follow from those of the step before: found anew at each, they took more
// instructions than the products did.
template <class Element>
class RowStages {
 public:
  using Traits = TileTraits<Element>;
  static constexpr int half = tile_rows / 2;

  // Begins with rows of two operands: `first(i)` is row i of the tile, `second(half, i)` row i of a half. What does not
  // exist becomes zeros.
  template <class First, class Second>
  DEVICE void begin(First first, Second second) {
    const int row = device::thread_index() / Traits::row_chunks,
              column = device::thread_index() % Traits::row_chunks * Traits::vector;
    const auto set = [&](int i, OperandRow<Element> upper, OperandRow<Element> lower) {
      next_[i] = upper.begin + column;
      const std::int64_t further = lower.begin - upper.begin;
      further_[i] = static_cast<int>(further) | (upper.exists ? 1 : 0) | (lower.exists ? 2 : 0);
      return static_cast<int>(further) == further;
    };
    const bool near = set(0, first(row), first(half + row)) && set(1, second(0, row), second(1, row));
    if (!near) leave();
  }
  // There are no such rows.
  DEVICE void leave() { next_[0] = nullptr; }
  DEVICE bool begun() const { return next_[0] != nullptr; }

  // Starts the copies of the next step.
  DEVICE void copy(SharedOffset stage) {
    const int thread = device::thread_index();
    const SharedOffset to = stage + row_chunk(thread / Traits::row_chunks, thread % Traits::row_chunks);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      // Half a tile of rows further, the swizzle is the same.
      const Element* lower = next_[i] + (further_[i] & ~3);
#pragma unroll
      for (int part = 0; part < step_stages; ++part) {
        const SharedOffset operand = to + part * stage_bytes + i * operand_bytes;
        device::copy_async_16(operand, next_[i] + part * Traits::depth, (further_[i] & 1) != 0);
        device::copy_async_16(operand + half * 64, lower + part * Traits::depth, (further_[i] & 2) != 0);
      }
      next_[i] += step_depth<Element>;
    }
  }

 private:
  const Element* next_[2];
  // The second half's row, in elements: a multiple of 16 bytes. The lowest bits tell which of the rows exist.
  int further_[2];
  static_assert(Traits::vector % 4 == 0);
};

}  // namespace fused_resnet
