// From operands in memory to accumulators, tile after tile.
//
// A block keeps to one column of tiles and takes every so many of its tiles. All that a tile reads is cut into steps, a
// stage each: products of 64 bytes of each operand's rows, then what is added to them. The steps of one tile follow
// those of the one before it in the pipeline, so that copies of the next tile are under way while this one is written.
#pragma once

#include <products.cuh>
#include <row_stages.cuh>

namespace fused_resnet {

using RowRing = RingOf<stages, stage_bytes>;

// x b^T, of which a step multiplies `depth` channels of x; b has `columns` rows, along which lie x's channels.
struct ProductOperands {
  const Activations& x;
  const Matrix& matrix;
  int columns;

  template <class Element>
  DEVICE int steps() const {
    return tiles_of(x.channels, TileTraits<Element>::depth);
  }

  // Whether all steps are of rows that `RowStages` copies.
  template <class Element>
  DEVICE bool streams() const {
    return x.vectorised && matrix.vectorised && x.channels % TileTraits<Element>::depth == 0;
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
    const int k = step * TileTraits<Element>::depth;
    copy_pixel_rows<Element>(tail, x, row, k, stage);
    copy_matrix_rows<Element>(matrix, columns, x.channels, column, k, stage + operand_bytes);
  }
};

// A tile's first step begins with this.
DEVICE void start(Accumulators& sum) {
  device::stay_apart();  // or each step would choose, for every accumulator, between its value and zero
  sum.clear();
}

template <class Products>
DEVICE void multiply_stage(Accumulators& sum, SharedOffset stage, const Pieces<typename Products::Element>& pieces) {
  Products::multiply(sum, stage, stage + operand_bytes, pieces);
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
// cache after that.
template <class Run>
DEVICE void for_each_column(int columns, Run run) {
#pragma unroll 1
  for (int ahead = 0; ahead < columns; ahead += device::grid_size()) {
    const int blocks = device::grid_size(), block = device::block_index(), column = block % columns + ahead;
    if (column >= columns) return;
    device::block_sync();  // the affines of the last column have been read
    run(TileColumn{column, block / columns, (blocks - 1 - column) / columns + 1});
  }
}

// The pipeline over a column of tiles: `copy(row, step, stage)` ahead of `compute(row, step, stage)`, for each of the
// block's tiles all of its `steps`; `prepare(row, step, stage)` in between may change what its own thread has copied.
template <class Copy, class Prepare, class Compute>
DEVICE void run_tiles(const Tail& tail, TileColumn column, int steps, Copy copy, Prepare prepare, Compute compute) {
  struct Cursor {
    unsigned row;  // beyond the last, one may be more than an int holds
    int step;
    DEVICE void advance(int steps, int rows) {
      if (++step < steps) return;
      step = 0;
      row += rows;
    }
  };
  const int further = column.shares * tile_rows;
  const auto exists = [&](const Cursor& at) { return at.row < static_cast<unsigned>(tail.rows); };
  Cursor ahead{static_cast<unsigned>(column.share) * tile_rows, 0}, now = ahead;
  pipeline<RowRing>([&](int) { return exists(ahead); },
                    [&](int, SharedOffset stage) {
                      copy(static_cast<int>(ahead.row), ahead.step, stage);
                      ahead.advance(steps, further);
                    },
                    [&](int, SharedOffset stage) { prepare(static_cast<int>(now.row), now.step, stage); },
                    [&](int) { return exists(now); },
                    [&](int, SharedOffset stage) {
                      compute(static_cast<int>(now.row), now.step, stage);
                      now.advance(steps, further);
                    });
}

// The same where nothing has to be prepared.
template <class Copy, class Compute>
DEVICE void run_tiles(const Tail& tail, TileColumn column, int steps, Copy copy, Compute compute) {
  run_tiles(tail, column, steps, copy, [](int, int, SharedOffset) {}, compute);
}

}  // namespace fused_resnet
