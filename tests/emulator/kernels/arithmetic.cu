// Conversions and arithmetic, element by element.
#include <scalar.h>

#include <device/convert.cuh>
#include <device/launch.h>
#include <device/memory.cuh>

#include "host.h"

namespace kernels {
namespace {

using namespace fused_resnet;
using namespace fused_resnet::device;

template <class From, class To>
struct Elementwise {
  const From* from;
  To* to;
  int count;
};

template <class From, class To, class Function>
KERNEL(256, 1)
apply(PARAMETER Elementwise<From, To> elements) {
  for (int i = block_index() * 256 + thread_index(); i < elements.count; i += grid_size() * 256) {
    global_store(elements.to + i, Function()(global_load(elements.from + i)));
  }
}

template <class Function, class From, class To>
const char* run(const From* from, To* to, int count) {
  using Parameters = Elementwise<From, To>;
  return error_of([&] {
    launch(apply<From, To, Function>, {"apply", 256, 0, 4, false}, Parameters{from, to, count},
           {{"from", offsetof(Parameters, from), from, count * sizeof(From), Access::read},
            {"to", offsetof(Parameters, to), to, count * sizeof(To), Access::write}},
           nullptr);
  });
}

template <class T>
struct Widen {
  DEVICE float operator()(T x) const { return to_float(x); }
};
template <class T>
struct Narrow {
  DEVICE T operator()(float x) const { return from_float<T>(x); }
};
struct RoundToTf32 {
  DEVICE float operator()(float x) const { return round_to_tf32(x); }
};
struct InverseSquareRoot {
  DEVICE float operator()(float x) const { return inverse_square_root(x); }
};
struct Bits {
  DEVICE float operator()(float x) const { return bits_float(float_bits(x)); }
};

struct alignas(8) Operands {
  std::uint32_t first, second;
};
template <class T>
struct SubtractPacked {
  DEVICE std::uint32_t operator()(Operands x) const { return subtract_packed<T>(x.first, x.second); }
};

struct alignas(8) Floats {
  float low, high;
};
template <class T>
struct Pack {
  DEVICE std::uint32_t operator()(Floats x) const { return pack<T>(x.low, x.high); }
};
template <class T>
struct RectifyPacked {
  DEVICE std::uint32_t operator()(std::uint32_t x) const { return rectify_packed<T>(x); }
};
struct SpreadBits {
  DEVICE std::uint64_t operator()(std::uint32_t x) const {
    std::uint32_t halves[2];
    spread_bits(x, halves);
    return static_cast<std::uint64_t>(halves[1]) << 32 | halves[0];
  }
};

struct alignas(16) Factors {
  float a, b, c, unused;
};
struct Fma {
  DEVICE float operator()(Factors x) const { return device::fma(x.a, x.b, x.c); }
};

}  // namespace

ENTRY widen_bfloat16(const BFloat16* from, float* to, int count) { return run<Widen<BFloat16>>(from, to, count); }
ENTRY widen_float16(const Float16* from, float* to, int count) { return run<Widen<Float16>>(from, to, count); }
ENTRY narrow_bfloat16(const float* from, BFloat16* to, int count) { return run<Narrow<BFloat16>>(from, to, count); }
ENTRY narrow_float16(const float* from, Float16* to, int count) { return run<Narrow<Float16>>(from, to, count); }
ENTRY round_tf32(const float* from, float* to, int count) { return run<RoundToTf32>(from, to, count); }
ENTRY inverse_root(const float* from, float* to, int count) { return run<InverseSquareRoot>(from, to, count); }
ENTRY bits_and_back(const float* from, float* to, int count) { return run<Bits>(from, to, count); }
ENTRY subtract_bfloat16(const Operands* from, std::uint32_t* to, int count) {
  return run<SubtractPacked<BFloat16>>(from, to, count);
}
ENTRY subtract_float16(const Operands* from, std::uint32_t* to, int count) {
  return run<SubtractPacked<Float16>>(from, to, count);
}
ENTRY pack_bfloat16(const Floats* from, std::uint32_t* to, int count) { return run<Pack<BFloat16>>(from, to, count); }
ENTRY pack_float16(const Floats* from, std::uint32_t* to, int count) { return run<Pack<Float16>>(from, to, count); }
ENTRY rectify_bfloat16(const std::uint32_t* from, std::uint32_t* to, int count) {
  return run<RectifyPacked<BFloat16>>(from, to, count);
}
ENTRY rectify_float16(const std::uint32_t* from, std::uint32_t* to, int count) {
  return run<RectifyPacked<Float16>>(from, to, count);
}
ENTRY spread(const std::uint32_t* from, std::uint64_t* to, int count) { return run<SpreadBits>(from, to, count); }
ENTRY fused_multiply_add(const Factors* from, float* to, int count) { return run<Fma>(from, to, count); }

}  // namespace kernels
