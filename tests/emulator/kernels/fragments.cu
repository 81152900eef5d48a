// One warp brings registers to tensor cores or fetches them from shared memory, and shows what comes of it.
#include <scalar.h>

#include <device/launch.h>
#include <device/matrix.cuh>

#include "host.h"

namespace kernels {
namespace {

using namespace fused_resnet;
using namespace fused_resnet::device;

struct Product {
  const std::uint32_t* a;  // by lane, 4 registers each
  const std::uint32_t* b;  // 2 registers
  float* d;                // 4 registers
};

template <class Element>
KERNEL(32, 1)
multiply(PARAMETER Product product) {
  const int lane = lane_index();
  std::uint32_t a[4], b[2];
  float d[4];
  for (int i = 0; i < 4; ++i) a[i] = global_load(product.a + 4 * lane + i);
  for (int i = 0; i < 2; ++i) b[i] = global_load(product.b + 2 * lane + i);
  for (int i = 0; i < 4; ++i) d[i] = global_load(product.d + 4 * lane + i);
  mma<Element>(d, a, b);
  for (int i = 0; i < 4; ++i) global_store(product.d + 4 * lane + i, d[i]);
}

struct Fetch {
  const Vector16<std::uint16_t>* rows;  // what shared memory holds
  const std::uint32_t* offsets;         // by lane, the row that it points to
  std::uint32_t* registers;             // by lane, 4 each
};

constexpr int fetched_rows = 32, row_bytes = 16;

template <bool transposed>
KERNEL(32, 1)
fetch(PARAMETER Fetch fetch) {
  const int lane = lane_index();
  shared_store(lane * row_bytes, global_load(fetch.rows + lane));
  block_sync();
  std::uint32_t registers[4];
  const SharedOffset row = global_load(fetch.offsets + lane);
  if constexpr (transposed) {
    load_matrices_transposed(registers, row);
  } else {
    load_matrices(registers, row);
  }
  for (int i = 0; i < 4; ++i) global_store(fetch.registers + 4 * lane + i, registers[i]);
}

template <class Element>
const char* run_multiply(const Product& product) {
  return error_of([&] {
    launch(multiply<Element>, {"multiply", 32, 0, 1, false}, product,
           {{"a", offsetof(Product, a), product.a, 32 * 4 * 4, Access::read},
            {"b", offsetof(Product, b), product.b, 32 * 2 * 4, Access::read},
            {"d", offsetof(Product, d), product.d, 32 * 4 * 4, Access::read_write}},
           nullptr);
  });
}

template <bool transposed>
const char* run_fetch(const Fetch& parameters) {
  return error_of([&] {
    launch(fetch<transposed>, {"fetch", 32, fetched_rows * row_bytes, 1, false}, parameters,
           {{"rows", offsetof(Fetch, rows), parameters.rows, fetched_rows * row_bytes, Access::read},
            {"offsets", offsetof(Fetch, offsets), parameters.offsets, 32 * 4, Access::read},
            {"registers", offsetof(Fetch, registers), parameters.registers, 32 * 4 * 4, Access::write}},
           nullptr);
  });
}

}  // namespace

ENTRY multiply_bfloat16(const std::uint32_t* a, const std::uint32_t* b, float* d) {
  return run_multiply<BFloat16>({a, b, d});
}
ENTRY multiply_float16(const std::uint32_t* a, const std::uint32_t* b, float* d) {
  return run_multiply<Float16>({a, b, d});
}
ENTRY multiply_tf32(const std::uint32_t* a, const std::uint32_t* b, float* d) { return run_multiply<Tf32>({a, b, d}); }

ENTRY fetch_rows(const Vector16<std::uint16_t>* rows, const std::uint32_t* offsets, std::uint32_t* registers) {
  return run_fetch<false>({rows, offsets, registers});
}
ENTRY fetch_columns(const Vector16<std::uint16_t>* rows, const std::uint32_t* offsets, std::uint32_t* registers) {
  return run_fetch<true>({rows, offsets, registers});
}

}  // namespace kernels
