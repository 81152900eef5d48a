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

// Adds the first `count` of four floats at `from`, and again every `stride` floats further: number `first` and every
// `step`-th behind it, below `end`. A batch is under way together; where they are not aligned, one after the other.
template <int batch>
DEVICE void add_fours(const float* from, std::int64_t stride, int first, int end, int step, int count, bool aligned,
                      double (&sums)[4]) {
  const auto add = [&](const Vector16<float>& four) {
#pragma unroll
    for (int k = 0; k < 4; ++k) sums[k] += four.values[k];
  };
  from += first * stride;
  if (!aligned || count < 4) {
#pragma unroll 1
    for (int i = first; i < end; i += step, from += step * stride) add(load_four(from, count, false));
    return;
  }
#pragma unroll 1
  for (int i = first; i < end; i += batch * step) {
    Vector16<float> loaded[batch]{};
#pragma unroll
    for (int j = 0; j < batch; ++j, from += step * stride)
      if (i + j * step < end) loaded[j] = device::global_load(reinterpret_cast<const Vector16<float>*>(from));
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
