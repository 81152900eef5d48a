// Who threads are, and what they tell each other.
#include <device/launch.h>
#include <device/memory.cuh>

#include "host.h"

namespace kernels {
namespace {

using namespace fused_resnet::device;

constexpr int identity_threads = 96;

struct Identities {
  int* fields;  // 5 per thread
};

KERNEL(identity_threads, 1) identify(PARAMETER Identities identities) {
  int* own = identities.fields + 5 * (block_index() * identity_threads + thread_index());
  global_store(own, thread_index());
  global_store(own + 1, lane_index());
  global_store(own + 2, warp_index());
  global_store(own + 3, block_index());
  global_store(own + 4, grid_size());
}

template <class T>
struct Exchange {
  const T* given;
  T* received;
  int mask;
};

template <class T>
KERNEL(32, 1)
exchange(PARAMETER Exchange<T> exchange) {
  const int lane = lane_index();
  global_store(exchange.received + lane, warp_exchange(global_load(exchange.given + lane), exchange.mask));
}

template <class T>
auto run_exchange_of(const T* given, T* received, int mask) {
  return error_of([&] {
    launch(exchange<T>, {"exchange", 32, 0, 1, false}, Exchange<T>{given, received, mask},
           {{"given", offsetof(Exchange<T>, given), given, 32 * sizeof(T), Access::read},
            {"received", offsetof(Exchange<T>, received), received, 32 * sizeof(T), Access::write}},
           nullptr);
  });
}

}  // namespace

ENTRY run_identify(int* fields, int blocks) {
  const std::size_t bytes = blocks * identity_threads * 5 * sizeof(int);
  return error_of([&] {
    launch(identify, {"identify", identity_threads, 0, blocks, false}, Identities{fields},
           {{"fields", offsetof(Identities, fields), fields, bytes, Access::write}}, nullptr);
  });
}

ENTRY run_exchange_of_floats(const float* given, float* received, int mask) {
  return run_exchange_of(given, received, mask);
}

ENTRY run_exchange_of_doubles(const double* given, double* received, int mask) {
  return run_exchange_of(given, received, mask);
}

}  // namespace kernels
