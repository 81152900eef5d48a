// Element types as memory holds them; `device/convert.cuh` knows how to compute with them.
#pragma once

#include <cstdint>

namespace fused_resnet {

struct BFloat16 {
  std::uint16_t bits;
};

struct Float16 {
  std::uint16_t bits;
};

// Whether two elements fill a register.
template <class T>
constexpr bool is_half = sizeof(T) == 2;

// The unit of a 16-byte access.
template <class T>
struct alignas(16) Vector16 {
  static constexpr int size = 16 / sizeof(T);
  T values[size];
};

// The unit of an access to so many neighbouring channels.
template <class T, int V>
struct alignas(sizeof(T) * V) Channels {
  T at[V];
};

}  // namespace fused_resnet
