#include <backward.h>

namespace fused_resnet {

void launch_backward(Math math, GradientPhase phase, const TailGradient& gradient,
                     const std::vector<device::Buffer>& buffers, device::Stream stream) {
  const Branch* branches = gradient.tail.branches;
  const bool projections = branches[0].source == Source::projection || branches[1].source == Source::projection;
  with_products(math, [&](auto tag) {
    using Products = typename decltype(tag)::type;
    const auto launch =
        projections ? BackwardLauncher<Products, true>::launch : BackwardLauncher<Products, false>::launch;
    launch(phase, gradient, buffers, stream);
  });
}

}  // namespace fused_resnet
