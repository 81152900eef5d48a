// Text about what a check has found. Only a check that failed makes any, and none goes through a stream: where a module
// carries a second copy of the C++ library, writing a number to one may end the process.
#pragma once

#include <cstdint>
#include <string>

#include <bindings/described.h>

namespace fused_resnet::bindings {

inline std::string text(const char* words) { return words; }
inline std::string text(const std::string& words) { return words; }
inline std::string text(std::int64_t number) { return std::to_string(number); }
inline std::string text(c10::Device device) { return device.str(); }
inline std::string text(c10::ScalarType type) { return c10::toString(type); }

// As torch writes it to a stream.
inline std::string text(c10::Layout layout) {
  switch (layout) {
    case c10::kStrided:
      return "Strided";
    case c10::kSparse:
      return "Sparse";
    case c10::kSparseCsr:
      return "SparseCsr";
    case c10::kSparseCsc:
      return "SparseCsc";
    case c10::kSparseBsr:
      return "SparseBsr";
    case c10::kSparseBsc:
      return "SparseBsc";
    case c10::kMkldnn:
      return "Mkldnn";
    default:
      return "a layout of number " + std::to_string(static_cast<int>(layout));
  }
}

inline std::string text(const Name& name) {
  std::string all;
  for (const char* part : name.parts)
    if (part != nullptr) all += part;
  return all;
}

inline std::string text(at::IntArrayRef numbers) {
  std::string all;
  for (const std::int64_t number : numbers) all += (all.empty() ? "" : ", ") + std::to_string(number);
  return "[" + all + "]";
}

inline std::string text(const Shape& shape) { return "of shape " + text(shape.sizes); }
inline std::string text(const Strides& strides) { return "strided " + text(strides.strides); }

template <class First, class Second>
std::string text(const Both<First, Second>& both) {
  return text(both.first) + text(both.second);
}

template <class Was, class Expected>
std::string refusal(const Name& name, const Was& was, const Expected& expected) {
  return text(name) + " is " + text(was) + ", expected " + text(expected);
}

}  // namespace fused_resnet::bindings
