#include <backward.h>
#include <partition.h>

namespace fused_resnet {

void launch_forward(Math math, Phase phase, const Tail& tail, const std::vector<device::Buffer>& buffers,
                    device::Stream stream) {
  const bool projections = is_product(tail.branches[0]) || is_product(tail.branches[1]);
  with_products(math, [&](auto tag) {
    using Products = typename decltype(tag)::type;
    const auto launch =
        projections ? ForwardLauncher<Products, true>::launch : ForwardLauncher<Products, false>::launch;
    launch(phase, tail, buffers, stream);
  });
}

NeedsByKernel launch_needs() {
  NeedsByKernel needs;
  // Ways of computing products differ in their code, not in what they ask for.
  needs.merge(ForwardLauncher<Float32Products, false>::needs());
  needs.merge(ForwardLauncher<Float32Products, true>::needs());
  needs.merge(BackwardLauncher<Float32Products, false>::needs());
  needs.merge(BackwardLauncher<Float32Products, true>::needs());
  return needs;
}

}  // namespace fused_resnet
