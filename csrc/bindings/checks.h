// What tensors must be before a kernel may touch them. Each failure names the argument, what it was and what was
// expected; a check that holds describes nothing.
#pragma once

#include <ATen/core/Tensor.h>

#include <optional>
#include <stdexcept>
#include <vector>

#include <bindings/layout.h>
#include <bindings/text.h>
#include <device/launch.h>

namespace fused_resnet::bindings {

template <class Was, class Expected>
[[noreturn]] void refuse(const Name& name, const Was& was, const Expected& expected) {
  throw std::runtime_error(refusal(name, was, expected));
}

template <class Was, class Expected>
void require(bool holds, const Name& name, const Was& was, const Expected& expected) {
  if (!holds) refuse(name, was, expected);
}

// A strided tensor where the kernels run, of the given type, its address a multiple of an element's size.
inline void check_tensor(const Name& name, const at::Tensor& t, c10::Device device, c10::ScalarType type) {
  require(t.defined(), name, "None", "a tensor");
  require(t.layout() == c10::kStrided, name, t.layout(), c10::kStrided);
  require(t.device() == device, name + ".device", t.device(), device);
  require(t.scalar_type() == type, name + ".dtype", t.scalar_type(), type);
  require(!t.is_neg(), name, "a view that negates its memory", "one that does not");
  const auto address = reinterpret_cast<std::uintptr_t>(t.const_data_ptr());
  require(address % t.element_size() == 0, name + "'s address", static_cast<std::int64_t>(address),
          "a multiple of its element size");
}

// Activations whose pixels and channels 32 bits count, of a type and where the kernels compute.
inline void check_activations(const Name& name, const at::Tensor& t, c10::Device device, c10::ScalarType type) {
  require(t.defined(), name, "None", "a tensor");
  const bool known = type == c10::kFloat || type == c10::kHalf || type == c10::kBFloat16;
  require(known, name + ".dtype", type, "Float, Half or BFloat16");
  const auto wanted = device::on_gpu ? c10::DeviceType::CUDA : c10::DeviceType::CPU;
  require(device.type() == wanted, name + ".device", device, wanted);
  check_tensor(name, t, device, type);
  require(t.dim() == 4, name, Shape{t.sizes()}, "of four dimensions");
  constexpr std::int64_t most_rows = (1ll << 31) - (1 << 13), most_channels = 1 << 20;
  const std::int64_t rows = t.size(0) * t.size(2) * t.size(3);
  require(rows <= most_rows, Name("the number of ") + name + "'s pixels", rows, "at most 2^31 - 2^13");
  require(t.size(1) <= most_channels, Name("the number of ") + name + "'s channels", t.size(1), "at most 2^20");
}

inline void check_dense(const Name& name, const at::Tensor& t) {
  require(t.numel() == 0 || t.is_non_overlapping_and_dense(), name, "with gaps or overlaps in memory", "dense memory");
}

inline void check_sizes(const Name& name, const at::Tensor& t, at::IntArrayRef sizes) {
  require(t.sizes() == sizes, name, Shape{t.sizes()}, Shape{sizes});
}

inline void check_contiguous(const Name& name, const at::Tensor& t) {
  require(t.is_contiguous(), name, Strides{t.strides()}, "contiguous");
}

// The mask of the relu of y, or of a tensor like it: (N, H, W, bytes a pixel).
inline void check_mask(const Name& name, const at::Tensor& t, const at::Tensor& y) {
  check_tensor(name, t, y.device(), c10::kByte);
  check_sizes(name, t, {y.size(0), y.size(2), y.size(3), mask_pitch(y)});
  check_contiguous(name, t);
  const auto address = reinterpret_cast<std::uintptr_t>(t.const_data_ptr());
  require(address % 4 == 0, name + "'s address", static_cast<std::int64_t>(address), "a multiple of 4");
}

inline c10::ScalarType vector_type(const at::Tensor& vector, c10::ScalarType activations) {
  const bool half = activations == c10::kHalf || activations == c10::kBFloat16;
  return half && vector.scalar_type() == c10::kFloat ? c10::kFloat : activations;
}

// A (C) vector: contiguous, of the activations' type, or float32 where these are half precision.
inline void check_vector(const Name& name, const at::Tensor& t, c10::Device device, c10::ScalarType activations,
                         std::int64_t channels) {
  require(t.defined(), name, "None", "a tensor");
  check_tensor(name, t, device, vector_type(t, activations));
  check_sizes(name, t, {channels});
  check_contiguous(name, t);
}

// The memory that a tensor may touch.
struct Extent {
  Name name;
  const char* begin;
  const char* end;

  Extent(const Name& tensor_name, const at::Tensor& t)
      : name(tensor_name), begin(static_cast<const char*>(t.const_data_ptr())), end(begin) {
    if (t.numel() == 0) return;
    std::int64_t last = 0;
    for (std::int64_t dim = 0; dim < t.dim(); ++dim) last += (t.size(dim) - 1) * t.stride(dim);
    end = begin + (last + 1) * static_cast<std::int64_t>(t.element_size());
  }

  std::size_t bytes() const { return static_cast<std::size_t>(end - begin); }
  bool overlaps(const Extent& other) const { return begin < other.end && other.begin < end; }
};

// What is written must share no memory with anything else.
inline void check_aliasing(const std::vector<Extent>& written, const std::vector<Extent>& read) {
  for (std::size_t i = 0; i < written.size(); ++i) {
    for (std::size_t j = i + 1; j < written.size(); ++j)
      require(!written[i].overlaps(written[j]), written[i].name, Name("in the memory of ") + written[j].name,
              "memory of its own, as it is written");
    for (const Extent& other : read)
      require(!written[i].overlaps(other), written[i].name, Name("in the memory of ") + other.name,
              "memory of its own, as it is written");
  }
}

}  // namespace fused_resnet::bindings
