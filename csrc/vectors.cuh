// Four floats of global memory at once, where they are neighbours that exist and lie aligned.
#pragma once

#include <device/memory.cuh>
#include <scalar.h>

namespace fused_resnet {

// The first `count` of four; zeros behind them.
DEVICE Vector16<float> load_four(const float* from, int count, bool aligned) {
  if (aligned && count >= 4) return device::global_load(reinterpret_cast<const Vector16<float>*>(from));
  Vector16<float> result{};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < count) result.values[i] = device::global_load(from + i);
  return result;
}

// Adds the first `count` of the four floats at `place(i)`, for every `step`-th i from `first` on, below `end`. How they
// are loaded is chosen ahead of the loop: with a branch between, each load would wait for the one before it.
template <class Place>
DEVICE void add_fours(int first, int end, int step, int count, bool aligned, double (&sums)[4], Place place) {
  const auto add = [&](auto load) {
#pragma unroll 8
    for (int i = first; i < end; i += step) {
      const Vector16<float> loaded = load(place(i));
#pragma unroll
      for (int k = 0; k < 4; ++k) sums[k] += loaded.values[k];
    }
  };
  if (aligned && count >= 4)
    return add([](const float* from) { return device::global_load(reinterpret_cast<const Vector16<float>*>(from)); });
  add([count](const float* from) { return load_four(from, count, false); });
}

DEVICE void store_four(float* to, const Vector16<float>& values, int count, bool aligned) {
  if (aligned && count >= 4) return device::global_store(reinterpret_cast<Vector16<float>*>(to), values);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < count) device::global_store(to + i, values.values[i]);
}

}  // namespace fused_resnet
