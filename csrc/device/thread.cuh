// Who a thread is, and how threads wait for each other and exchange registers.
//
// `csrc/device/` is the only place that knows CUDA's intrinsics and PTX. Kernels are written against these names alone,
// so that a second implementation can run them on a CPU.
#pragma once

#include <cooperative_groups.h>

#include <cstdint>

#define DEVICE __device__ __forceinline__

namespace fused_resnet::device {

constexpr int warp_size = 32;

// These are read anew at each call: what is derived from them would otherwise stay in registers from one phase of a
// kernel to the next.
DEVICE int thread_index() {
  int index;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(index));
  __builtin_assume(index >= 0);  // divisions by powers of two are shifts then
  return index;
}
DEVICE int lane_index() { return thread_index() % warp_size; }
DEVICE int warp_index() { return thread_index() / warp_size; }
DEVICE int block_index() {
  int index;
  asm volatile("mov.u32 %0, %%ctaid.x;" : "=r"(index));
  return index;
}
DEVICE int grid_size() {
  int size;
  asm volatile("mov.u32 %0, %%nctaid.x;" : "=r"(size));
  return size;
}

// The value, of which the compiler knows nothing more: what follows from it is computed where it stands. Computed ahead
// of a loop, it would take registers of all that the loop does.
DEVICE std::int64_t unforeseen(std::int64_t value) {
  asm volatile("" : "+l"(value));
  return value;
}

// Keeps what stands in a branch there: the compiler does not compute it on both sides and choose.
DEVICE void stay_apart() { asm volatile(""); }

// All threads of the block, warp or grid; memory written before is visible to them after. grid_sync needs a cooperative
// launch.
DEVICE void block_sync() { __syncthreads(); }
DEVICE void warp_sync() { __syncwarp(); }
DEVICE void grid_sync() { cooperative_groups::this_grid().sync(); }

// The value (float or double) of the lane whose index differs in the bits of `mask`. All lanes of the warp take part.
template <class T>
DEVICE T warp_exchange(T value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask);
}

}  // namespace fused_resnet::device
