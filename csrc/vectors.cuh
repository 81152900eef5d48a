// Four floats of global memory at once, where they are neighbours that exist and lie aligned.
#pragma once

#include <device/memory.cuh>
#include <scalar.h>

namespace fused_resnet {

DEVICE bool is_aligned(const float* pointer) { return reinterpret_cast<std::uintptr_t>(pointer) % 16 == 0; }

// The first `count` of four; zeros behind them.
DEVICE Vector16<float> load_four(const float* from, int count, bool aligned) {
  if (aligned && count >= 4) return device::global_load(reinterpret_cast<const Vector16<float>*>(from));
  Vector16<float> result{};
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < count) result.values[i] = device::global_load(from + i);
  return result;
}

// Adds the first `count` of the four floats at `place(i)`, for every `step`-th i from `first` on, below `end`. So many
// are under way together, also where there are fewer; one after the other where they lie apart.
template <int batch, class Place>
DEVICE void add_fours(int first, int end, int step, int count, bool aligned, double (&sums)[4], Place place) {
  const auto add = [&](const Vector16<float>& four) {
#pragma unroll
    for (int k = 0; k < 4; ++k) sums[k] += four.values[k];
  };
  if (!aligned || count < 4) {
#pragma unroll 1
    for (int i = first; i < end; i += step) add(load_four(place(i), count, false));
    return;
  }
#pragma unroll 1
  for (int i = first; i < end; i += batch * step) {
    Vector16<float> loaded[batch]{};
#pragma unroll
    for (int j = 0; j < batch; ++j)
      if (i + j * step < end)
        loaded[j] = device::global_load(reinterpret_cast<const Vector16<float>*>(place(i + j * step)));
#pragma unroll
    for (int j = 0; j < batch; ++j) add(loaded[j]);
  }
}

DEVICE void store_four(float* to, const Vector16<float>& values, int count, bool aligned) {
  if (aligned && count >= 4) return device::global_store(reinterpret_cast<Vector16<float>*>(to), values);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < count) device::global_store(to + i, values.values[i]);
}

}  // namespace fused_resnet
