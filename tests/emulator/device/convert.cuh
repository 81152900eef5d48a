// The emulator's `csrc/device/convert.cuh`: the same roundings in integer arithmetic.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include <scalar.h>

#include <device/thread.cuh>

namespace fused_resnet::device {

DEVICE std::uint32_t float_bits(float x) {
  std::uint32_t bits;
  std::memcpy(&bits, &x, sizeof(bits));
  return bits;
}
DEVICE float bits_float(std::uint32_t bits) {
  float x;
  std::memcpy(&x, &bits, sizeof(x));
  return x;
}

DEVICE float to_float(float x) { return x; }
DEVICE float to_float(BFloat16 x) { return bits_float(static_cast<std::uint32_t>(x.bits) << 16); }
DEVICE float to_float(Float16 x) {
  const std::uint32_t sign = (x.bits & 0x8000u) << 16, magnitude = x.bits & 0x7fffu;
  if (magnitude >= 0x7c00u) return bits_float(sign | 0x7f800000u | magnitude << 13);  // infinity and NaN
  // With its fields in place the number is too small by the difference of the exponents' biases, 2^112; the product is
  // exact and gives subnormals their leading one.
  return bits_float(sign | float_bits(bits_float(magnitude << 13) * 0x1p112f));
}

template <class T>
DEVICE T from_float(float x);
template <>
DEVICE float from_float<float>(float x) {
  return x;
}
template <>
DEVICE BFloat16 from_float<BFloat16>(float x) {
  if (std::isnan(x)) return {0x7fff};
  const std::uint32_t bits = float_bits(x), odd = bits >> 16 & 1;
  return {static_cast<std::uint16_t>((bits + 0x7fffu + odd) >> 16)};
}
template <>
DEVICE Float16 from_float<Float16>(float x) {
  if (std::isnan(x)) return {0x7fff};
  const std::uint32_t bits = float_bits(x), sign = bits >> 16 & 0x8000u, magnitude = bits & 0x7fffffffu;
  std::uint32_t rounded;
  if (magnitude >= float_bits(65520.0f)) {  // halfway from the largest finite number to the next
    rounded = 0x7c00u;
  } else if (magnitude < float_bits(0x1p-14f)) {
    // Subnormals are multiples of 2^-24, the distance between floats from 0.5 on: this sum rounds to one of them.
    rounded = float_bits(0.5f + bits_float(magnitude)) - float_bits(0.5f);
  } else {
    const std::uint32_t odd = magnitude >> 13 & 1, bias = 112u << 23;
    rounded = (magnitude - bias + 0xfffu + odd) >> 13;
  }
  return {static_cast<std::uint16_t>(sign | rounded)};
}

template <class T>
DEVICE std::uint32_t pack(float low, float high) {
  return static_cast<std::uint32_t>(from_float<T>(high).bits) << 16 | from_float<T>(low).bits;
}

template <class T>
DEVICE std::uint32_t rectify_packed(std::uint32_t pair) {
  std::uint32_t larger = 0;
  for (int half = 0; half < 32; half += 16) {
    const float x = to_float(T{static_cast<std::uint16_t>(pair >> half)});
    larger |= static_cast<std::uint32_t>(from_float<T>(x <= 0.0f ? 0.0f : x).bits) << half;
  }
  return larger;
}

DEVICE void spread_bits(unsigned bits, std::uint32_t (&halves)[2]) {
  for (int i = 0; i < 2; ++i) halves[i] = (bits >> 2 * i & 1) * 0x0000ffffu | (bits >> (2 * i + 1) & 1) * 0xffff0000u;
}

DEVICE float round_to_tf32(float x) {
  if (!std::isfinite(x)) return x;
  return bits_float((float_bits(x) + 0x1000u) & 0xffffe000u);
}

DEVICE float fma(float a, float b, float c) { return std::fma(a, b, c); }
DEVICE double fma(double a, double b, double c) { return std::fma(a, b, c); }
DEVICE float magnitude(float x) { return std::fabs(x); }
DEVICE float inverse_square_root(float x) { return 1.0f / std::sqrt(x); }

// Rounding twice, to float and to T, is rounding once: float has more than twice the bits of either T.
template <class T>
DEVICE std::uint32_t subtract_packed(std::uint32_t a, std::uint32_t b) {
  std::uint32_t difference = 0;
  for (int half = 0; half < 32; half += 16) {
    const float minuend = to_float(T{static_cast<std::uint16_t>(a >> half)});
    const float subtrahend = to_float(T{static_cast<std::uint16_t>(b >> half)});
    difference |= static_cast<std::uint32_t>(from_float<T>(minuend - subtrahend).bits) << half;
  }
  return difference;
}

}  // namespace fused_resnet::device
