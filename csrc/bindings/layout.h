// From tensors to what `tail.h` says of their memory.
#pragma once

#include <ATen/core/Tensor.h>

#include <tail.h>

namespace fused_resnet::bindings {

inline ElementType element_type(c10::ScalarType type) {
  if (type == c10::kBFloat16) return ElementType::bfloat16;
  return type == c10::kHalf ? ElementType::float16 : ElementType::float32;
}

// How products of activations of a type are computed.
inline Math math_of(c10::ScalarType type, bool tf32) {
  switch (element_type(type)) {
    case ElementType::bfloat16:
      return Math::bfloat16;
    case ElementType::float16:
      return Math::float16;
    default:
      return tf32 ? Math::tf32 : Math::float32;
  }
}

inline bool aligned_to_vectors(const at::Tensor& t) {
  return reinterpret_cast<std::uintptr_t>(t.const_data_ptr()) % 16 == 0;
}

inline Divider divider(int divisor) {
  std::uint32_t shift = 0;
  while ((std::uint64_t{1} << shift) < static_cast<std::uint64_t>(divisor)) ++shift;
  const std::uint64_t excess = (std::uint64_t{1} << shift) - divisor;
  return {static_cast<std::uint32_t>(divisor), static_cast<std::uint32_t>((excess << 32) / divisor + 1), shift};
}

// What the output's pixels are: those of y, or of its gradient.
inline void set_pixels(Tail& tail, const at::Tensor& y) {
  tail.height = static_cast<int>(y.size(2));
  tail.width = static_cast<int>(y.size(3));
  tail.by_height = divider(tail.height);
  tail.by_width = divider(tail.width);
  tail.rows = static_cast<int>(y.size(0) * y.size(2) * y.size(3));
  tail.channels = static_cast<int>(y.size(1));
}

// Bytes of a pixel in the mask of y's relu (`Mask`).
inline std::int64_t mask_pitch(const at::Tensor& y) {
  const std::int64_t vector = 16 / static_cast<std::int64_t>(y.element_size());
  const std::int64_t bytes = (y.size(1) + vector - 1) / vector;
  return (bytes + 3) / 4 * 4;
}

// A mask of shape (N, H, W, pitch); its memory is filled in by who knows it.
inline Mask mask(const at::Tensor& bytes) { return {nullptr, static_cast<int>(bytes.size(3))}; }

// Every `stride`-th pixel of x (N, C, H, W), `height` x `width` of them.
inline Activations activations(const at::Tensor& x, std::int64_t stride, std::int64_t height, std::int64_t width) {
  const std::int64_t n = x.size(0), channels = x.size(1);
  Activations a{};
  a.data = x.data_ptr();
  a.channels = static_cast<int>(channels);
  a.stride_n = x.stride(0);
  a.stride_c = channels == 1 ? 1 : x.stride(1);
  // The only pixel of a line or column may have any stride, too large a one to be multiplied as well.
  a.stride_h = height > 1 ? x.stride(2) * stride : 0;
  a.stride_w = width > 1 ? x.stride(3) * stride : 0;
  // Strides of sizes of one mean nothing: the distance of rows is that along the first dimension that has several.
  const std::int64_t pitch = width > 1 ? a.stride_w : height > 1 ? a.stride_h : a.stride_n;
  a.dense = (height == 1 || a.stride_h == width * pitch) && (n == 1 || a.stride_n == height * width * pitch);
  if (a.dense) a.stride_w = pitch;
  const std::int64_t vector = 16 / static_cast<std::int64_t>(x.element_size());
  const auto whole = [vector](std::int64_t size, std::int64_t step) { return size == 1 || step % vector == 0; };
  a.vectorised = aligned_to_vectors(x) && a.stride_c == 1 && channels % vector == 0 && whole(n, a.stride_n) &&
                 whole(height, a.stride_h) && whole(width, a.stride_w);
  return a;
}

// A weight (C, K, 1, 1).
inline Matrix matrix(const at::Tensor& weight) {
  const std::int64_t c = weight.size(0), k = weight.size(1);
  const std::int64_t vector = 16 / static_cast<std::int64_t>(weight.element_size());
  Matrix m{weight.data_ptr(), weight.stride(0), k == 1 ? 1 : weight.stride(1), false};
  m.vectorised =
      aligned_to_vectors(weight) && m.stride_k == 1 && k % vector == 0 && (c == 1 || m.stride_c % vector == 0);
  return m;
}

}  // namespace fused_resnet::bindings
