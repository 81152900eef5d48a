// Work whose amounts are known: rounds of loads, a ring of asynchronous copies, accesses to banks of shared memory.
#include <device/launch.h>
#include <device/memory.cuh>

#include "host.h"

namespace kernels {
namespace {

using namespace fused_resnet::device;

constexpr int work_threads = 64, stages = 4, copy_bytes = 16;

struct Loads {
  const float* from;
  float* to;
  int first, second;  // loads of a thread ahead of a store, and behind it
  int warps;          // that load; the others are idle
};

KERNEL(work_threads, 1) load_in_rounds(PARAMETER Loads loads) {
  if (warp_index() >= loads.warps) return;
  const int count = loads.first + loads.second;
  float sum = 0.0f;
  for (int i = 0; i < count; ++i) {
    if (i == loads.first) global_store(loads.to + thread_index(), sum);
    sum += global_load(loads.from + i * work_threads + thread_index());
  }
  global_store(loads.to + thread_index(), sum);
}

enum Fault : int { none, waits_too_early, refills_too_early, forgets_barrier };

struct Ring {
  const float* from;
  float* to;
  int items, steps;
  int fault;
};

DEVICE SharedOffset stage(int step, int thread) { return (step % stages * work_threads + thread) * copy_bytes; }

DEVICE void copy_step(const Ring& ring, int step) {
  if (step < ring.items * ring.steps)
    copy_async_16(stage(step, thread_index()), ring.from + (step * work_threads + thread_index()) * 4, true);
  copy_async_commit();
}

// Sums what the neighbouring threads have copied, item by item; copies run on over the items' borders.
KERNEL(work_threads, 1) sum_by_ring(PARAMETER Ring ring) {
  constexpr SharedOffset sums = stages * work_threads * copy_bytes;
  const int neighbour = (thread_index() + 1) % work_threads;
  for (int step = 0; step < stages - 1; ++step) copy_step(ring, step);
  float sum = 0.0f;
  for (int step = 0; step < ring.items * ring.steps; ++step) {
    const bool starts = step % ring.steps == 0 && step > 0;
    if (starts && ring.fault == waits_too_early) {
      copy_async_wait<stages - 1>();
    } else {
      copy_async_wait<stages - 2>();
    }
    if (ring.fault == refills_too_early) copy_step(ring, step + stages - 1);
    block_sync();
    if (ring.fault != refills_too_early) copy_step(ring, step + stages - 1);
    sum += shared_load<float>(stage(step, neighbour));
    if (step % ring.steps < ring.steps - 1) continue;
    shared_store(sums + 4 * thread_index(), sum);
    if (ring.fault != forgets_barrier) block_sync();
    global_store(ring.to + step / ring.steps * work_threads + thread_index(), shared_load<float>(sums + 4 * neighbour));
    sum = 0.0f;
  }
  copy_async_wait<0>();
}

struct Banks {
  int stride;  // words between the lanes' accesses
};

template <class T>
DEVICE void touch_banks(const Banks& banks) {
  shared_store(static_cast<SharedOffset>(4 * banks.stride * lane_index()), T{});
}

struct alignas(16) Sixteen {
  float values[4];
};

KERNEL(32, 1) touch_words(PARAMETER Banks banks) { touch_banks<float>(banks); }
KERNEL(32, 1) touch_vectors(PARAMETER Banks banks) { touch_banks<Sixteen>(banks); }

}  // namespace

ENTRY run_load_in_rounds(const float* from, float* to, int first, int second, int warps) {
  const std::size_t bytes = (first + second) * work_threads * sizeof(float);
  return error_of([&] {
    launch(load_in_rounds, {"load_in_rounds", work_threads, 0, 1, false}, Loads{from, to, first, second, warps},
           {{"from", offsetof(Loads, from), from, bytes, Access::read},
            {"to", offsetof(Loads, to), to, work_threads * sizeof(float), Access::write}},
           nullptr);
  });
}

ENTRY run_sum_by_ring(const float* from, float* to, int items, int steps, int fault) {
  const std::size_t floats = static_cast<std::size_t>(items) * work_threads;
  constexpr int shared = stages * work_threads * copy_bytes + work_threads * 4;
  return error_of([&] {
    launch(sum_by_ring, {"sum_by_ring", work_threads, shared, 1, false}, Ring{from, to, items, steps, fault},
           {{"from", offsetof(Ring, from), from, floats * steps * copy_bytes, Access::read},
            {"to", offsetof(Ring, to), to, floats * sizeof(float), Access::write}},
           nullptr);
  });
}

ENTRY run_touch_banks(int stride, int bytes) {
  return error_of([&] {
    const Launch how{"touch_banks", 32, 32 * 4 * stride + 16, 1, false};
    launch(bytes == 4 ? touch_words : touch_vectors, how, Banks{stride}, {}, nullptr);
  });
}

}  // namespace kernels
