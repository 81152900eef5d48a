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

DEVICE void store_four(float* to, const Vector16<float>& values, int count, bool aligned) {
  if (aligned && count >= 4) return device::global_store(reinterpret_cast<Vector16<float>*>(to), values);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < count) device::global_store(to + i, values.values[i]);
}

}  // namespace fused_resnet
