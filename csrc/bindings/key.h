// The key that a call is remembered by: everything about its tensors and settings that decides anything, as numbers.
#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <c10/util/SmallVector.h>

#include <cstring>

namespace fused_resnet::bindings {

class Key {
 public:
  void add(std::int64_t value) { values_.push_back(value); }

  void add(double value) {
    std::int64_t bits;
    static_assert(sizeof bits == sizeof value);
    std::memcpy(&bits, &value, sizeof bits);
    add(bits);
  }

  // Type, device, sizes, strides, and how the address is aligned; not the address.
  void add(const at::Tensor& t) {
    if (!t.defined()) return add(std::int64_t{-1});
    const auto alignment = static_cast<std::int64_t>(reinterpret_cast<std::uintptr_t>(t.const_data_ptr()) % 16);
    const auto type = static_cast<std::int64_t>(t.scalar_type()), dimensions = t.dim();
    const c10::Device device = t.device();
    const auto kind = static_cast<std::int64_t>(device.type()), index = static_cast<std::int64_t>(device.index());
    add(type | kind << 8 | alignment << 16 | dimensions << 24 | (index + 1) << 32);
    for (const std::int64_t size : t.sizes()) add(size);
    for (const std::int64_t stride : t.strides()) add(stride);
  }

  bool operator==(const Key& other) const { return values_ == other.values_; }

  struct Hash {
    std::size_t operator()(const Key& key) const {
      std::uint64_t hash = 14695981039346656037ull;  // FNV-1a, a value at a time
      for (const std::int64_t value : key.values_)
        hash = (hash ^ static_cast<std::uint64_t>(value)) * 1099511628211ull ^ hash >> 29;
      return static_cast<std::size_t>(hash);
    }
  };

 private:
  c10::SmallVector<std::int64_t, 160> values_;
};

// Dense memory of this module's kind of device and nothing else: no subclass with code of its own, no wrapper, no view
// that negates or conjugates.
inline bool is_plain(const at::Tensor& t) {
  constexpr auto dense = c10::DispatchKeySet({c10::DispatchKey::CPU, c10::DispatchKey::CUDA});
  constexpr auto around = c10::autograd_dispatch_keyset | c10::autocast_dispatch_keyset | c10::inplace_or_view_ks;
  return (t.key_set().raw_repr() & ~(dense.raw_repr() | around.raw_repr())) == 0;
}

// No mode, tracer or transform wants to see the operators that this thread calls.
inline bool nobody_looks_on() {
  constexpr auto usual =
      c10::DispatchKeySet(c10::DispatchKey::BackendSelect) | c10::autocast_dispatch_keyset | c10::inplace_or_view_ks;
  return (c10::impl::tls_local_dispatch_key_set().included_.raw_repr() & ~usual.raw_repr()) == 0;
}

}  // namespace fused_resnet::bindings
