// Neighbouring elements of half precision as the registers hold them: two in one, the first in the lower half.
#pragma once

#include <cstring>
#include <type_traits>

#include <device/convert.cuh>

namespace fused_resnet {

template <class Element, int V>
DEVICE std::uint32_t pair_at(const Element (&values)[V], int i) {
  std::uint32_t pair;
  std::memcpy(&pair, values + i, sizeof(pair));
  return pair;
}

template <class Element, int V>
DEVICE void set_pair(Element (&values)[V], int i, std::uint32_t pair) {
  std::memcpy(values + i, &pair, sizeof(pair));
}

// Elements i and i + 1 as floats.
template <class Element, int V>
DEVICE void float_pair(const Element (&values)[V], int i, float (&to)[2]) {
  if constexpr (std::is_same_v<Element, BFloat16>) {  // the upper half of a float
    const std::uint32_t pair = pair_at(values, i);
    to[0] = device::bits_float(pair << 16);
    to[1] = device::bits_float(pair & 0xffff0000u);
  } else {
    to[0] = device::to_float(values[i]);
    to[1] = device::to_float(values[i + 1]);
  }
}

// `count` elements as floats, from the first on.
template <int count, class Element, int V>
DEVICE void float_values(const Element (&values)[V], int first, float (&to)[count]) {
#pragma unroll
  for (int i = 0; i < count; i += 2) {
    float pair[2];
    float_pair(values, first + i, pair);
    to[i] = pair[0];
    to[i + 1] = pair[1];
  }
}

DEVICE float rectified(float x) { return x <= 0.0f ? 0.0f : x; }  // NaN stays NaN

// Rounds `value(i)` to `to[first + i]`, `count` of them, through a relu or not.
template <int count, class Element, int V, class Value>
DEVICE void round_values(Element (&to)[V], int first, bool relu, Value value) {
  if constexpr (is_half<Element>) {
#pragma unroll
    for (int i = 0; i < count; i += 2) {
      const std::uint32_t pair = device::pack<Element>(value(i), value(i + 1));
      set_pair(to, first + i, relu ? device::rectify_packed<Element>(pair) : pair);
    }
  } else {
#pragma unroll
    for (int i = 0; i < count; ++i) to[first + i] = relu ? rectified(value(i)) : value(i);
  }
}

}  // namespace fused_resnet
