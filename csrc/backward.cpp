#include <backward.h>
#include <gradient_items.h>

namespace fused_resnet {
namespace {

template <class Products>
void launch_products(GradientPhase phase, const TailGradient& gradient, const std::vector<device::Buffer>& buffers,
                     device::Stream stream) {
  const Branch* branches = gradient.tail.branches;
  if (branches[0].source == Source::projection || branches[1].source == Source::projection)
    return BackwardLauncher<Products, true>::launch(phase, gradient, buffers, stream);
  BackwardLauncher<Products, false>::launch(phase, gradient, buffers, stream);
}

}  // namespace

void launch_backward(Math math, GradientPhase phase, const TailGradient& gradient,
                     const std::vector<device::Buffer>& buffers, device::Stream stream) {
  switch (math) {
    case Math::float32:
      return launch_products<Float32Products>(phase, gradient, buffers, stream);
    case Math::tf32:
      return launch_products<Tf32Products>(phase, gradient, buffers, stream);
    case Math::bfloat16:
      return launch_products<HalfProducts<BFloat16>>(phase, gradient, buffers, stream);
    case Math::float16:
      return launch_products<HalfProducts<Float16>>(phase, gradient, buffers, stream);
  }
}

}  // namespace fused_resnet
