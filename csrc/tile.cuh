// The shape that all phases with products share: a block of 8 warps holds a 128 x 128 tile of float accumulators, and
// all that it reads comes through a ring of stages in shared memory, 64 bytes of each operand's rows at a time.
#pragma once

#include <device/convert.cuh>
#include <device/memory.cuh>
#include <partition.h>

namespace fused_resnet {

using device::SharedOffset;

constexpr int block_threads = 256;

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
  static_assert(tile_rows * row_chunks == 2 * block_threads, "a thread copies two chunks of each operand");
};

// A stage of pixels, which are the summed dimension then: channels lie side by side. Of `wide` channels, or half as
// many and twice the pixels. The padding spreads the pixels over the banks for the loads of `products.cuh`.
constexpr int wide = tile_columns;
constexpr int narrow = tile_columns / 2;
template <class Element, int width>
struct PixelTraits {
  static constexpr int columns = width;
  static constexpr int vector = TileTraits<Element>::vector;
  static constexpr int depth = TileTraits<Element>::depth * wide / width;
  static constexpr int pitch = width * sizeof(Element) + (sizeof(Element) == 4 ? 32 : 16);
  static constexpr int chunks = width / vector;
  static constexpr int bytes = depth * pitch;
  static_assert(depth * chunks == 2 * block_threads, "a thread copies two chunks of each operand");
  static_assert(pitch % 16 == 0, "rows of chunks are aligned");
};

// Shared memory, in bytes from its start. A stage of rows has two operands.
constexpr int operand_bytes = 8704;
constexpr int stage_bytes = 2 * operand_bytes;
constexpr int stages = 4;
constexpr int ring_bytes = stages * stage_bytes;
// Room for sums of warps and of threads on their way to one of them, when the stages are free.
constexpr int joined_bytes = 48 * 1024;
constexpr SharedOffset joined_columns = joined_bytes;
// Scratch of the phases that use no norms; behind the stages.
constexpr SharedOffset scratch_offset = ring_bytes;
constexpr int vectors_bytes = 2 * 3 * tile_columns * sizeof(float);
constexpr int scratch_bytes = vectors_bytes;

// Tiles of y and dx take steps of two stages: what surrounds a step is as much for both as it would be for one. Between
// the first two slots for steps lie norms of the tile's channels, and a number of each thread's that it keeps through a
// loop whose accumulators need all registers. A third slot follows where there is as much memory.
constexpr int step_stages = 2;
constexpr int step_bytes = step_stages * stage_bytes;
constexpr int few_slots = 2, many_slots = 3;
constexpr SharedOffset vectors_offset = step_bytes, kept_offset = vectors_offset + vectors_bytes;
constexpr int slot_pitch = kept_offset + 4 * block_threads;
constexpr int step_bytes_of(int slots) { return (slots - 1) * slot_pitch + step_bytes; }
static_assert(slot_pitch % 64 == 0, "rows of stages are found by bits of their addresses");

constexpr int shared_bytes = step_bytes_of(few_slots);
constexpr int many_shared_bytes = step_bytes_of(many_slots);
static_assert(scratch_offset + scratch_bytes <= shared_bytes);

DEVICE SharedOffset slot_offset(int slot) { return slot * slot_pitch; }
DEVICE SharedOffset kept_place() { return kept_offset + 4 * device::thread_index(); }

template <class Element>
constexpr bool fits =
    tile_rows * tile_depth_bytes <= operand_bytes && PixelTraits<Element, wide>::bytes <= operand_bytes;
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

// How warps share a product of pixels: tiles side by side, and where these are fewer than the warps, each takes a part
// of every stage's pixels.
template <int rows, int columns>
struct WarpShare {
  static constexpr int across = columns / warp_columns, tiles = rows / warp_rows * across;
  static constexpr int parts = block_threads / device::warp_size / tiles;

  DEVICE static int part() { return device::warp_index() / tiles; }
  DEVICE static int number() { return device::warp_index() % tiles; }
  DEVICE static WarpTile tile() { return {number() / across * warp_rows, number() % across * warp_columns}; }
};

// Where a tile of the output begins.
struct TilePlace {
  int row, channel;
};

// The output has `channels`.
DEVICE bool warp_has_work(const Tail& tail, TilePlace place, int channels) {
  const WarpTile own = warp_tile();
  return place.row + own.row < tail.rows && place.channel + own.column < channels;
}

// Two neighbouring columns of the accumulators.
struct alignas(8) Float2 {
  float x, y;
};

// A warp's sums, of so many fragments below each other and side by side.
template <int of_rows, int of_columns>
struct FragmentSums {
  static constexpr int rows = of_rows, columns = of_columns;
  float values[rows][columns][4];

  template <class Run>
  DEVICE static void for_each(Run run) {
#pragma unroll
    for (int m = 0; m < rows; ++m)
#pragma unroll
      for (int n = 0; n < columns; ++n)
#pragma unroll
        for (int i = 0; i < 4; ++i) run(m, n, i);
  }
  DEVICE void clear() {
    for_each([this](int m, int n, int i) { values[m][n][i] = 0.0f; });
  }
};
using Accumulators = FragmentSums<fragment_rows, fragment_columns>;

// A ring of `count` stages, `size` bytes each.
template <int count, int size>
struct RingOf {
  static constexpr int stages = count, bytes = size;

  DEVICE static SharedOffset stage(int step) { return static_cast<unsigned>(step) % stages * bytes; }
};

// Runs `load(step, stage)` ahead of `compute(step, stage)`, by one stage less than there are, so that copies are under
// way while earlier stages are computed with. `load` starts copies into `stage` or stores there; `prepare` may change
// what its own thread has loaded; `compute` finds the stage complete. `to_load(step)` and `to_compute(step)`: whether
// there is such a step. The stages are free again afterwards.
template <class Ring, class ToLoad, class Load, class Prepare, class ToCompute, class Compute>
DEVICE void pipeline(ToLoad to_load, Load load, Prepare prepare, ToCompute to_compute, Compute compute) {
  // Negative steps only fill the pipeline: one loop, so that `load` and `compute` are compiled once.
#pragma unroll 1
  for (int step = 1 - Ring::stages; step < 0 || to_compute(step); ++step) {
    if (step >= 0) {
      device::copy_async_wait<Ring::stages - 2>();
      prepare(step, Ring::stage(step));
      device::block_sync();
    }
    const int next = step + Ring::stages - 1;
    if (to_load(next)) load(next, Ring::stage(next));
    device::copy_async_commit();
    if (step >= 0) compute(step, Ring::stage(step));
  }
  device::block_sync();
}

// The same for a known number of steps.
template <class Ring, class Load, class Prepare, class Compute>
DEVICE void pipeline(int steps, Load load, Prepare prepare, Compute compute) {
  const auto exists = [steps](int step) { return step < steps; };
  pipeline<Ring>(exists, load, prepare, exists, compute);
}

// The same where nothing has to be prepared.
template <class Ring, class Load, class Compute>
DEVICE void pipeline(int steps, Load load, Compute compute) {
  pipeline<Ring>(steps, load, [](int, SharedOffset) {}, compute);
}

}  // namespace fused_resnet
