// Conversions between element types and float, and arithmetic whose rounding is fixed.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <scalar.h>

#include <device/thread.cuh>

namespace fused_resnet::device {

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(BFloat16 x) { return __bfloat162float(__ushort_as_bfloat16(x.bits)); }
DEVICE float to_float(Float16 x) { return __half2float(__ushort_as_half(x.bits)); }

// Rounds to the nearest, ties to even.
template <class T>
DEVICE T from_float(float x);
template <>
DEVICE float from_float<float>(float x) {
  return x;
}
template <>
DEVICE BFloat16 from_float<BFloat16>(float x) {
  return {__bfloat16_as_ushort(__float2bfloat16_rn(x))};
}
template <>
DEVICE Float16 from_float<Float16>(float x) {
  return {__half_as_ushort(__float2half_rn(x))};
}

// Both rounded to T, `low` in the lower half.
template <class T>
DEVICE std::uint32_t pack(float low, float high);
template <>
DEVICE std::uint32_t pack<BFloat16>(float low, float high) {
  const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}
template <>
DEVICE std::uint32_t pack<Float16>(float low, float high) {
  const __half2 pair = __floats2half2_rn(low, high);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

// The larger of each of two packed elements and zero. NaN stays NaN, -0 becomes 0.
template <class T>
DEVICE std::uint32_t rectify_packed(std::uint32_t pair);
template <>
DEVICE std::uint32_t rectify_packed<BFloat16>(std::uint32_t pair) {
  const __nv_bfloat162 larger = __hmax2_nan(*reinterpret_cast<__nv_bfloat162*>(&pair), __nv_bfloat162{});
  return *reinterpret_cast<const std::uint32_t*>(&larger);
}
template <>
DEVICE std::uint32_t rectify_packed<Float16>(std::uint32_t pair) {
  const __half2 larger = __hmax2_nan(*reinterpret_cast<__half2*>(&pair), __half2{});
  return *reinterpret_cast<const std::uint32_t*>(&larger);
}

// Four bits as four halves of registers, which are all ones or all zeros. The products move bit i to the sign of byte
// i, from where `prmt` fills bytes with it.
DEVICE void spread_bits(unsigned bits, std::uint32_t (&halves)[2]) {
  const std::uint32_t signs = (bits & 15u) * 0x10204080u;
  asm("prmt.b32 %0, %1, %1, 0x9988;" : "=r"(halves[0]) : "r"(signs));
  asm("prmt.b32 %0, %1, %1, 0xbbaa;" : "=r"(halves[1]) : "r"(signs));
}

// The float nearest to x with tf32's 10 bits of mantissa, ties away from zero (PTX: cvt.rna.tf32.f32).
DEVICE float round_to_tf32(float x) {
  std::uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(x));
  return __uint_as_float(bits);
}

DEVICE std::uint32_t float_bits(float x) { return __float_as_uint(x); }
DEVICE float bits_float(std::uint32_t bits) { return __uint_as_float(bits); }

// a * b + c, rounded once. Kernels are compiled without contraction of their own, so that the emulator's bits agree.
DEVICE float fma(float a, float b, float c) { return __fmaf_rn(a, b, c); }
DEVICE double fma(double a, double b, double c) { return __fma_rn(a, b, c); }
DEVICE float magnitude(float x) { return fabsf(x); }
// 1 / sqrt(x), correctly rounded square root and division.
DEVICE float inverse_square_root(float x) { return __fdiv_rn(1.0f, __fsqrt_rn(x)); }

// Elementwise a - b of two packed elements, each rounded once.
template <class T>
DEVICE std::uint32_t subtract_packed(std::uint32_t a, std::uint32_t b);
template <>
DEVICE std::uint32_t subtract_packed<BFloat16>(std::uint32_t a, std::uint32_t b) {
  const __nv_bfloat162 difference =
      __hsub2(*reinterpret_cast<__nv_bfloat162*>(&a), *reinterpret_cast<__nv_bfloat162*>(&b));
  return *reinterpret_cast<const std::uint32_t*>(&difference);
}
template <>
DEVICE std::uint32_t subtract_packed<Float16>(std::uint32_t a, std::uint32_t b) {
  const __half2 difference = __hsub2(*reinterpret_cast<__half2*>(&a), *reinterpret_cast<__half2*>(&b));
  return *reinterpret_cast<const std::uint32_t*>(&difference);
}

}  // namespace fused_resnet::device
