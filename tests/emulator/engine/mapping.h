// Zeroed memory that takes up room only where it is touched.
#pragma once

#include <cstddef>
#include <utility>

namespace fused_resnet::emulator {

constexpr std::size_t page_bytes = 4096;

class Mapping {
 public:
  Mapping() = default;
  explicit Mapping(std::size_t bytes);
  Mapping(Mapping&& other) noexcept
      : first_(std::exchange(other.first_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Mapping& operator=(Mapping&& other) noexcept {
    std::swap(first_, other.first_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~Mapping();

  char* first() const { return first_; }
  std::size_t bytes() const { return bytes_; }

  // Replaces the mapping by a larger one, zeroed, unless it holds that many bytes.
  void reserve(std::size_t bytes);
  void forbid_first_page();

 private:
  char* first_ = nullptr;
  std::size_t bytes_ = 0;
};

}  // namespace fused_resnet::emulator
