// The shape that all phases share: a block of 8 warps holds a 128 x 128 tile of float accumulators and streams its
// operands through three stages of shared memory, 64 bytes of each operand's rows at a time.
#pragma once

#include <device/convert.cuh>
#include <device/memory.cuh>
#include <partition.h>

namespace fused_resnet {

using device::SharedOffset;

constexpr int block_threads = 256;
constexpr int stages = 3;

// Warps stand 4 x 2, each with 32 rows and 64 columns: rows of 64 columns make stores of whole cache lines.
constexpr int warp_grid_rows = 4;
constexpr int warp_grid_columns = 2;
constexpr int warp_rows = tile_rows / warp_grid_rows;
constexpr int warp_columns = tile_columns / warp_grid_columns;
// A warp's tile in units of the tensor cores' 16 x 8.
constexpr int fragment_rows = warp_rows / 16;
constexpr int fragment_columns = warp_columns / 8;
static_assert(warp_grid_rows * warp_grid_columns * device::warp_size == block_threads);
static_assert(warp_rows % 16 == 0 && warp_columns % 16 == 0);

template <class Element>
struct TileTraits {
  static constexpr int vector = 16 / sizeof(Element);               // elements of a 16-byte chunk
  static constexpr int depth = tile_depth_bytes / sizeof(Element);  // elements along the summed dimension, a stage
  static constexpr int row_chunks = depth / vector;
  // Stages of pixels lie channels first; the padding spreads the pixels over the banks for the loads of `products.cuh`.
  static constexpr int pixel_pitch = tile_columns * sizeof(Element) + (sizeof(Element) == 4 ? 32 : 16);
  static constexpr int pixel_chunks = tile_columns / vector;
  static_assert(tile_rows * row_chunks == 2 * block_threads, "a thread copies two chunks of each operand");
  static_assert(depth * pixel_chunks == 2 * block_threads, "a thread copies two chunks of each operand");
  static_assert(pixel_pitch % 16 == 0, "rows of chunks are aligned");
};

// Shared memory, in bytes from its start.
constexpr int operand_bytes = 8704;
constexpr int stage_bytes = 2 * operand_bytes;
// A warp's accumulators on their way to memory, in place of the stages when these have been computed with.
// The padding spreads the rows that lanes write at the same time over the banks.
constexpr int slab_pitch = warp_columns + 8;
constexpr int slab_bytes = warp_rows * slab_pitch * sizeof(float);
constexpr int slabs_bytes = block_threads / device::warp_size * slab_bytes;
// Norms of the tile's channels; behind stages and slabs.
constexpr SharedOffset vectors_offset = slabs_bytes > (stages * stage_bytes) ? slabs_bytes : (stages * stage_bytes);
constexpr int vectors_bytes = 2 * 3 * tile_columns * sizeof(float);
constexpr int shared_bytes = vectors_offset + vectors_bytes;
// Scratch of the phases that use neither slabs nor norms; beside the stages.
constexpr SharedOffset scratch_offset = stages * stage_bytes;
constexpr int scratch_bytes = shared_bytes - scratch_offset;

template <class Element>
constexpr bool fits = tile_rows * tile_depth_bytes <= operand_bytes &&
                      TileTraits<Element>::depth * TileTraits<Element>::pixel_pitch <= operand_bytes;
static_assert(fits<float> && fits<BFloat16> && fits<Float16>);
// 99 KiB is what every architecture from sm_80 on gives to a block.
static_assert(shared_bytes <= 99 * 1024);

// Where a warp's tile lies in the block's.
struct WarpTile {
  int row, column;
};

DEVICE WarpTile warp_tile() {
  const int warp = device::warp_index();
  return {warp / warp_grid_columns * warp_rows, warp % warp_grid_columns * warp_columns};
}

// Rows up to `end` of the tile at (row, channel).
struct TilePlace {
  int row, end, channel;
};

// The output has `channels`.
DEVICE bool warp_has_work(TilePlace place, int channels) {
  const WarpTile tile = warp_tile();
  return place.row + tile.row < place.end && place.channel + tile.column < channels;
}

// Two neighbouring columns of the accumulators.
struct alignas(8) Float2 {
  float x, y;
};

struct Accumulators {
  float values[fragment_rows][fragment_columns][4];

  DEVICE void clear() {
#pragma unroll
    for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
      for (int n = 0; n < fragment_columns; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) values[m][n][i] = 0.0f;
  }
};

// Runs `load(step, stage)` ahead of `compute(step, stage)`, so that copies are under way while earlier stages are
// computed with. `load` starts copies into `stage` or stores there; `prepare` may change what its own thread has
// loaded; `compute` finds the stage complete. The stages, of so many bytes, are free again afterwards.
template <int bytes, class Load, class Prepare, class Compute>
DEVICE void pipeline(int steps, Load load, Prepare prepare, Compute compute) {
  // Negative steps only fill the pipeline: one loop, so that `load` and `compute` are compiled once.
#pragma unroll 1
  for (int step = 1 - stages; step < steps; ++step) {
    if (step >= 0) {
      device::copy_async_wait<stages - 2>();
      prepare(step, step % stages * bytes);
      device::block_sync();
    }
    const int next = step + stages - 1;
    if (next < steps) load(next, next % stages * bytes);
    device::copy_async_commit();
    if (step >= 0) compute(step, step % stages * bytes);
  }
  device::block_sync();
}

// Of two operands, which need no preparation.
template <class Load, class Compute>
DEVICE void pipeline(int steps, Load load, Compute compute) {
  pipeline<stage_bytes>(steps, load, [](int, SharedOffset) {}, compute);
}

}  // namespace fused_resnet
