// Threads that do not meet where they should.
#include "twins.h"

namespace kernels {
namespace {

using namespace fused_resnet;
using namespace fused_resnet::device;

template <bool faulty>
KERNEL(twin_threads, 1)
warp_skips_barrier(PARAMETER Twin twin) {
  if (!faulty || warp_index() == 0) block_sync();  // FAULT: warp_skips_barrier
  output(twin, input(twin));
}

template <bool faulty>
KERNEL(twin_threads, 1)
barriers_of_two_lines(PARAMETER Twin twin) {
  if (!faulty || warp_index() == 0) {
    block_sync();  // FAULT: barriers_of_two_lines
  } else {
    block_sync();  // FAULT: barriers_of_two_lines
  }
  output(twin, input(twin));
}

template <bool faulty>
KERNEL(twin_threads, 1)
early_return(PARAMETER Twin twin) {
  output(twin, input(twin));
  if (faulty && thread_index() == 3) return;
  block_sync();  // FAULT: early_return
}

template <bool faulty>
KERNEL(twin_threads, 1)
divergent_warp(PARAMETER Twin twin) {
  float value = input(twin);
  if (!faulty || lane_index() < 16) {
    value = warp_exchange(value, 1);  // FAULT: divergent_warp
  } else {
    value = warp_exchange(value, 2);  // FAULT: divergent_warp
  }
  output(twin, value);
}

template <bool faulty>
KERNEL(twin_threads, 1)
missing_lane(PARAMETER Twin twin) {
  float value = input(twin);
  if (!faulty || lane_index() != 31) value += warp_exchange(value, 16);  // FAULT: missing_lane
  output(twin, value);
}

template <bool faulty>
KERNEL(twin_threads, 1)
block_skips_grid_barrier(PARAMETER Twin twin) {
  if (!faulty || block_index() == 0) grid_sync();  // FAULT: block_skips_grid_barrier
  output(twin, input(twin));
}

const Registered registered{
    TWINS(warp_skips_barrier), TWINS(barriers_of_two_lines), TWINS(early_return),
    TWINS(divergent_warp),     TWINS(missing_lane),          TWINS(block_skips_grid_barrier),
};

}  // namespace
}  // namespace kernels
