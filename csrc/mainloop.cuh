// From operands in memory to accumulators, tile after tile.
//
// A block keeps to one column of tiles and takes every so many of its tiles. All that a tile reads is cut into steps:
// products of 128 bytes of each operand's rows, then what is added to them. The steps of one tile follow those of the
// one before it in the pipeline, so that copies of the next tile are under way while this one is written.
#pragma once

#include <products.cuh>
#include <row_stages.cuh>

namespace fused_resnet {

// What a block's pipeline needs to know of its tiles. Counted by the host: the kernels find it in constant memory, and
// need no registers for it.
struct StepCounts {
  int slots;                 // steps that shared memory holds, few_slots or many_slots
  int first, products, all;  // steps of a tile: of the first product, of all products, and all
};

// Steps of a product of so many channels.
template <class Element>
HOST_DEVICE int product_steps(int channels) {
  return tiles_of(channels, step_depth<Element>);
}

// x b^T, of which a step multiplies `step_depth` channels of x; b has `columns` rows, along which lie x's channels.
struct ProductOperands {
  const Activations& x;
  const Matrix& matrix;
  int columns;

  // Whether all steps are of rows that `RowStages` copies.
  template <class Element>
  DEVICE bool streams() const {
    return x.vectorised && matrix.vectorised && x.channels % step_depth<Element> == 0;
  }
  template <class Element>
  DEVICE void begin(RowStages<Element>& stages, const Tail& tail, int row, int column) const {
    using Stages = RowStages<Element>;
    if (!streams<Element>()) return stages.leave();
    stages.begin(
        [&](int own) { return OperandRow<Element>{row_pointer<Element>(tail, x, row + own), own < tail.rows - row}; },
        [&](int part, int own) {
          const int further = part * Stages::half + own;
          return OperandRow<Element>{matrix_row<Element>(matrix, column + further), further < columns - column};
        });
  }

  // Starts the copies of a step; the tile begins at (row, column).
  template <class Element>
  DEVICE void copy(const Tail& tail, int row, int column, int step, SharedOffset stage) const {
    int k = step * step_depth<Element>;
    for_each_stage(stage, [&](SharedOffset to) {
      copy_pixel_rows<Element>(tail, x, row, k, to);
      copy_matrix_rows<Element>(matrix, columns, x.channels, column, k, to + operand_bytes);
      k += TileTraits<Element>::depth;
    });
  }
};

// A tile's first step begins with this.
DEVICE void start(Accumulators& sum) {
  device::stay_apart();  // or each step would choose, for every accumulator, between its value and zero
  sum.clear();
}

// One stage after the other: with products of both under way, registers would lack.
template <class Products>
DEVICE void multiply_step(Accumulators& sum, SharedOffset stage, const Pieces<typename Products::Element>& pieces) {
#pragma unroll 1
  for (int part = 0; part < step_stages; ++part)
    Products::multiply(sum, stage + part * stage_bytes, stage + part * stage_bytes + operand_bytes, pieces);
}

// x W^T.
DEVICE ProductOperands weight_product(const Tail& tail, const Branch& branch) {
  return {branch.x, branch.weight, tail.channels};
}

// A column of tiles, of which a block takes every `shares`-th, from number `share` on.
struct TileColumn {
  int column, share, shares;

  DEVICE int channel() const { return column * tile_columns; }
};

// Calls `run(column)` for those of so many columns that the block works on: it has one, where there are enough blocks.
// Neighbouring blocks take neighbouring columns of the same rows, so that these come from memory once and from the L2
// cache after that. The number is a reference: it stays in constant memory, and the column waits in shared memory.
template <class Run>
DEVICE void for_each_column(const int& columns, Run run) {
  int column = device::block_index() % columns;
#pragma unroll 1
  while (column < columns) {
    device::block_sync();  // the affines of the last column have been read
    device::shared_store(kept_place(), column);
    const int blocks = device::grid_size(), block = device::block_index();
    run(TileColumn{column, block / columns, (blocks - 1 - column) / columns + 1});
    column = device::shared_load<int>(kept_place()) + device::grid_size();
  }
}

// Waits until the copies of the step that comes next have arrived.
DEVICE void wait_for_step(int slots) {
  if (slots == few_slots) {
    device::copy_async_wait<few_slots - 2>();
  } else {
    device::copy_async_wait<many_slots - 2>();
  }
}

// The pipeline over a column of tiles: `copy(row, step, stage)` ahead of `compute(row, step, stage)`, for each of the
// block's tiles all of its steps; `prepare(row, step, stage)` in between may change what its own thread has copied. The
// barrier ahead of the next column tells that the slots are free again.
template <class Copy, class Prepare, class Compute>
DEVICE void run_tiles(const Tail& tail, TileColumn column, const StepCounts& count, Copy copy, Prepare prepare,
                      Compute compute) {
  struct Cursor {
    unsigned row;  // beyond the last, one may be more than an int holds
    int step;
    DEVICE void advance(int by, int steps, int rows) {
      step += by;
#pragma unroll 1
      for (; step >= steps; step -= steps) row += rows;
    }
  };
  const int further = column.shares * tile_rows;
  const auto exists = [&](const Cursor& at) { return at.row < static_cast<unsigned>(tail.rows); };
  Cursor now{static_cast<unsigned>(column.share) * tile_rows, 0};
  // Negative slots only fill the pipeline: one loop, so that `copy` and `compute` are compiled once.
#pragma unroll 1
  for (int slot = 1 - count.slots; slot < 0 || exists(now); slot = slot + 1 < count.slots ? slot + 1 : 0) {
    if (slot >= 0) {
      wait_for_step(count.slots);
      prepare(static_cast<int>(now.row), now.step, slot_offset(slot));
      device::block_sync();
    }
    // Found anew each time: kept, it would take two registers.
    Cursor ahead = now;
    ahead.advance(count.slots - 1 + (slot < 0 ? slot : 0), count.all, further);
    const int free = slot > 0 ? slot - 1 : slot + count.slots - 1;
    if (exists(ahead)) copy(static_cast<int>(ahead.row), ahead.step, slot_offset(free));
    device::copy_async_commit();
    if (slot < 0) continue;
    compute(static_cast<int>(now.row), now.step, slot_offset(slot));
    now.advance(1, count.all, further);
  }
}

// The same where nothing has to be prepared.
template <class Copy, class Compute>
DEVICE void run_tiles(const Tail& tail, TileColumn column, const StepCounts& count, Copy copy, Compute compute) {
  run_tiles(tail, column, count, copy, [](int, int, SharedOffset) {}, compute);
}

}  // namespace fused_resnet
