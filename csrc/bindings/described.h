// What a check says of an argument, as values: `text.h` makes words of them where the check has failed.
#pragma once

#include <ATen/core/Tensor.h>

#include <device/request.h>

namespace fused_resnet::bindings {

using device::Name;

// "of shape [2, 3]"
struct Shape {
  at::IntArrayRef sizes;
};

// "strided [3, 1]"
struct Strides {
  at::IntArrayRef strides;
};

// Two descriptions in a row.
template <class First, class Second>
struct Both {
  First first;
  Second second;
};

}  // namespace fused_resnet::bindings
