// Mistakes with copies from global to shared memory.
#include "twins.h"

namespace kernels {
namespace {

using namespace fused_resnet;
using namespace fused_resnet::device;

// The first 16 threads copy the block's 64 floats, to one of two stages.
DEVICE bool copies() { return thread_index() < 16; }
DEVICE SharedOffset stage(int index) { return 256 * index; }
DEVICE SharedOffset target(int index) { return stage(index) + 16 * thread_index(); }
DEVICE const float* source(const Twin& twin) { return twin.input + block_index() * twin_threads + 4 * thread_index(); }
DEVICE SharedOffset mirrored(int index) { return stage(index) + 4 * (twin_threads - 1 - thread_index()); }

template <bool faulty>
KERNEL(twin_threads, 1)
missing_wait(PARAMETER Twin twin) {
  if (copies()) copy_async_16(target(0), source(twin), true);
  copy_async_commit();
  if (!faulty) copy_async_wait<0>();
  block_sync();
  output(twin, shared_load<float>(mirrored(0)));  // FAULT: missing_wait
}

template <bool faulty>
KERNEL(twin_threads, 1)
missing_commit(PARAMETER Twin twin) {
  if (copies()) copy_async_16(target(0), source(twin), true);
  if (!faulty) copy_async_commit();
  copy_async_wait<0>();
  block_sync();
  output(twin, shared_load<float>(mirrored(0)));  // FAULT: missing_commit
  copy_async_commit();
  copy_async_wait<0>();
}

template <bool faulty>
KERNEL(twin_threads, 1)
wait_for_too_few(PARAMETER Twin twin) {
  for (int i = 0; i < 2; ++i) {
    if (copies()) copy_async_16(target(i), source(twin), true);
    copy_async_commit();
  }
  copy_async_wait<faulty ? 1 : 0>();
  block_sync();
  const float sum = shared_load<float>(mirrored(0));
  output(twin, sum + shared_load<float>(mirrored(1)));  // FAULT: wait_for_too_few
  copy_async_wait<0>();
}

// The wait makes a thread's own copies visible to itself alone.
template <bool faulty>
KERNEL(twin_threads, 1)
missing_barrier_after_wait(PARAMETER Twin twin) {
  shared_store(mirrored(0), 0.0f);
  block_sync();
  if (copies()) copy_async_16(target(0), source(twin), true);  // FAULT: missing_barrier_after_wait
  copy_async_commit();
  copy_async_wait<0>();
  if (!faulty) block_sync();
  output(twin, shared_load<float>(mirrored(0)));  // FAULT: missing_barrier_after_wait
}

// The same among the threads of a warp. Bytes that are not read become zeros.
template <bool faulty>
KERNEL(twin_threads, 1)
missing_warp_barrier_after_wait(PARAMETER Twin twin) {
  const int neighbour = thread_index() ^ 3;
  shared_store(4 * neighbour, 1.0f);
  shared_store(4 * (twin_threads + thread_index()), 1.0f);
  block_sync();
  copy_async_4(4 * thread_index(), twin.input + element(), 4);  // FAULT: missing_warp_barrier_after_wait
  copy_async_4(4 * (twin_threads + thread_index()), twin.input + element(), 0);
  copy_async_commit();
  copy_async_wait<0>();
  if (!faulty) warp_sync();
  const float copied = shared_load<float>(4 * neighbour);  // FAULT: missing_warp_barrier_after_wait
  output(twin, copied + shared_load<float>(4 * (twin_threads + thread_index())));
}

template <bool faulty>
KERNEL(twin_threads, 1)
refill_before_barrier(PARAMETER Twin twin) {
  float sum = 0;
  for (int i = 0; i < 3; ++i) {
    if (copies()) copy_async_16(target(0), source(twin), true);  // FAULT: refill_before_barrier
    copy_async_commit();
    copy_async_wait<0>();
    block_sync();
    sum += shared_load<float>(mirrored(0));  // FAULT: refill_before_barrier
    if (!faulty) block_sync();
  }
  output(twin, sum);
}

template <bool faulty>
KERNEL(twin_threads, 1)
skipped_copy(PARAMETER Twin twin) {
  if (copies() && !(faulty && thread_index() == 7)) copy_async_16(target(0), source(twin), true);
  copy_async_commit();
  copy_async_wait<0>();
  block_sync();
  output(twin, shared_load<float>(mirrored(0)));  // FAULT: skipped_copy
}

// Zeros of an invalid copy do not read: any address will do.
template <bool faulty>
KERNEL(twin_threads, 1)
copy_out_of_bounds(PARAMETER Twin twin) {
  const float* from = source(twin) + (copies() ? 0 : twin_count);
  copy_async_16(target(0), from, copies() || faulty);  // FAULT: copy_out_of_bounds
  copy_async_commit();
  copy_async_wait<0>();
  block_sync();
  output(twin, shared_load<float>(mirrored(0)) + shared_load<float>(stage(1)));
}

// The source must stay as it is until the wait.
template <bool faulty>
KERNEL(twin_threads, 1)
source_overwritten(PARAMETER Twin twin) {
  global_store(twin.workspace + element(), input(twin));
  block_sync();
  const float* from = twin.workspace + (source(twin) - twin.input);
  if (copies()) copy_async_16(target(0), from, true);  // FAULT: source_overwritten
  copy_async_commit();
  block_sync();
  if (!faulty) copy_async_wait<0>();
  if (!faulty) block_sync();
  global_store(twin.workspace + element(), 0.0f);  // FAULT: source_overwritten
  copy_async_wait<0>();
  block_sync();
  output(twin, shared_load<float>(mirrored(0)));
}

template <bool faulty>
KERNEL(twin_threads, 1)
leaked_copy(PARAMETER Twin twin) {
  if (copies()) copy_async_16(target(0), source(twin), true);  // FAULT: leaked_copy
  copy_async_commit();
  if (!faulty) copy_async_wait<0>();
  output(twin, 0.0f);
}

const Registered registered{
    TWINS(missing_wait),          TWINS(missing_commit),
    TWINS(wait_for_too_few),      TWINS(missing_barrier_after_wait),
    TWINS(refill_before_barrier), TWINS(skipped_copy),
    TWINS(copy_out_of_bounds),    TWINS(source_overwritten),
    TWINS(leaked_copy),           TWINS(missing_warp_barrier_after_wait),
};

}  // namespace
}  // namespace kernels
