// As forward.h, for the backward.
#pragma once

#include <forward.h>
#include <gradient.h>

namespace fused_resnet {

template <class Products, bool projections>
struct BackwardLauncher {
  static void launch(GradientPhase phase, const TailGradient& gradient, const std::vector<device::Buffer>& buffers,
                     device::Stream stream);
  static NeedsByKernel needs();
};

}  // namespace fused_resnet
