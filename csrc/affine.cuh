// What is done to a value for the sake of its channel alone: a norm, or a bias.
#pragma once

#include <tile.cuh>

namespace fused_resnet {

// A vector of (C), of one of several types; `absent` where there is none.
DEVICE float vector_element(const void* vector, ElementType type, int i, float absent) {
  if (vector == nullptr) return absent;
  switch (type) {
    case ElementType::bfloat16:
      return device::to_float(device::global_load(static_cast<const BFloat16*>(vector) + i));
    case ElementType::float16:
      return device::to_float(device::global_load(static_cast<const Float16*>(vector) + i));
    default:
      return device::global_load(static_cast<const float*>(vector) + i);
  }
}

DEVICE void store_vector_element(void* vector, ElementType type, int i, float value) {
  switch (type) {
    case ElementType::bfloat16:
      return device::global_store(static_cast<BFloat16*>(vector) + i, device::from_float<BFloat16>(value));
    case ElementType::float16:
      return device::global_store(static_cast<Float16*>(vector) + i, device::from_float<Float16>(value));
    default:
      return device::global_store(static_cast<float*>(vector) + i, value);
  }
}

// 1 / sqrt(var + eps), and a = gamma / sqrt(var + eps), of a norm.
DEVICE float inverse_std(const Norm& norm, float var) { return device::inverse_square_root(var + norm.eps); }
DEVICE float norm_scale(const Norm& norm, int channel, float var) {
  return vector_element(norm.weight, norm.type, channel, 1.0f) * inverse_std(norm, var);
}

// (x - centre) * scale + shift.
struct Affine {
  float centre, scale, shift;

  DEVICE float operator()(float x) const { return device::fma(x - centre, scale, shift); }
};

// dy where y = norm(z), rounded as y was, is not negative or zero. NaN passes dy, as in PyTorch.
template <class Element>
DEVICE Element masked_by_input(Element dy, Element z, const Affine& norm) {
  return device::to_float(device::from_float<Element>(norm(device::to_float(z)))) <= 0.0f ? Element{} : dy;
}

// Those of neighbouring channels.
template <int count>
struct AffineGroup {
  Affine at[count];
};

// Affines of up to two tensors for the tile's channels, in shared memory.
struct Affines {
  DEVICE static SharedOffset offset(int index, int part, int column) {
    return vectors_offset + 4 * ((index * 3 + part) * tile_columns + column);
  }

  // `of(index, channel)` gives the affine of tensor 0 or 1; there are `channels`.
  template <class Of>
  DEVICE static void prepare(int first_channel, int channels, Of of) {
    const int index = device::thread_index() / tile_columns, column = device::thread_index() % tile_columns;
    const Affine a = first_channel + column < channels ? of(index, first_channel + column) : Affine{0.0f, 0.0f, 0.0f};
    device::shared_store(offset(index, 0, column), a.centre);
    device::shared_store(offset(index, 1, column), a.scale);
    device::shared_store(offset(index, 2, column), a.shift);
  }

  // Those of `count` columns; `column` is a multiple of it.
  template <int count>
  DEVICE static AffineGroup<count> load(int index, int column) {
    struct alignas(4 * count) Floats {
      float at[count];
    };
    const auto centres = device::shared_load<Floats>(offset(index, 0, column));
    const auto scales = device::shared_load<Floats>(offset(index, 1, column));
    const auto shifts = device::shared_load<Floats>(offset(index, 2, column));
    AffineGroup<count> group;
#pragma unroll
    for (int i = 0; i < count; ++i) group.at[i] = {centres.at[i], scales.at[i], shifts.at[i]};
    return group;
  }
};
static_assert(block_threads == 2 * tile_columns, "a thread prepares one channel of one tensor");

}  // namespace fused_resnet
