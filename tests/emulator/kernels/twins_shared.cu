// Mistakes with shared memory.
#include <scalar.h>

#include "twins.h"

namespace kernels {
namespace {

using namespace fused_resnet;
using namespace fused_resnet::device;

DEVICE SharedOffset own() { return 4 * thread_index(); }
DEVICE SharedOffset mirrored() { return 4 * (twin_threads - 1 - thread_index()); }

template <bool faulty>
KERNEL(twin_threads, 1)
missing_block_barrier(PARAMETER Twin twin) {
  shared_store(own(), 0.0f);
  block_sync();
  shared_store(own(), input(twin));  // FAULT: missing_block_barrier
  if (!faulty) block_sync();
  output(twin, shared_load<float>(mirrored()));  // FAULT: missing_block_barrier
}

// The neighbour's lane differs in the lowest bit: both are in the same warp.
template <bool faulty>
KERNEL(twin_threads, 1)
missing_warp_barrier(PARAMETER Twin twin) {
  shared_store(own(), 0.0f);
  block_sync();
  shared_store(own(), input(twin));  // FAULT: missing_warp_barrier
  if (!faulty) warp_sync();
  output(twin, shared_load<float>(own() ^ 4));  // FAULT: missing_warp_barrier
}

// A warp barrier orders nothing between two warps.
template <bool faulty>
KERNEL(twin_threads, 1)
warp_barrier_across_warps(PARAMETER Twin twin) {
  shared_store(own(), 0.0f);
  block_sync();
  shared_store(own(), input(twin));  // FAULT: warp_barrier_across_warps
  if constexpr (faulty) {
    warp_sync();
  } else {
    block_sync();
  }
  output(twin, shared_load<float>(mirrored()));  // FAULT: warp_barrier_across_warps
}

// Reads, many of the same byte, conflict with the write that follows.
template <bool faulty>
KERNEL(twin_threads, 1)
overwritten_while_read(PARAMETER Twin twin) {
  shared_store(own(), input(twin));
  block_sync();
  const float first = shared_load<float>(0);  // FAULT: overwritten_while_read
  if (!faulty) block_sync();
  if (thread_index() == 40) shared_store(0, 1.0f);  // FAULT: overwritten_while_read
  output(twin, first);
}

template <bool faulty>
KERNEL(twin_threads, 1)
two_writers(PARAMETER Twin twin) {
  if (faulty || thread_index() == 0) shared_store(0, 1.0f);  // FAULT: two_writers
  block_sync();
  output(twin, shared_load<float>(0));
}

template <bool faulty>
KERNEL(twin_threads, 1)
shared_out_of_bounds(PARAMETER Twin twin) {
  const SharedOffset last = twin_shared_bytes - 4;
  if (thread_index() == 0) shared_store(faulty ? last + 4 : last, 1.0f);  // FAULT: shared_out_of_bounds
  output(twin, 0.0f);
}

template <bool faulty>
KERNEL(twin_threads, 1)
shared_misaligned(PARAMETER Twin twin) {
  shared_store(own(), input(twin));
  block_sync();
  const auto vector = shared_load<Vector16<float>>(faulty ? 8 : 16);  // FAULT: shared_misaligned
  output(twin, vector.values[0]);
}

template <bool faulty>
KERNEL(twin_threads, 1)
shared_uninitialised(PARAMETER Twin twin) {
  if (!faulty || thread_index() != 5) shared_store(own(), input(twin));
  block_sync();
  output(twin, shared_load<float>(mirrored()));  // FAULT: shared_uninitialised
}

const Registered registered{
    TWINS(missing_block_barrier),  TWINS(missing_warp_barrier), TWINS(warp_barrier_across_warps),
    TWINS(overwritten_while_read), TWINS(two_writers),          TWINS(shared_out_of_bounds),
    TWINS(shared_misaligned),      TWINS(shared_uninitialised),
};

}  // namespace
}  // namespace kernels
