#include <backward.h>
#include <partition.h>

namespace fused_resnet {

void launch_forward(Math math, Phase phase, const Tail& tail, const std::vector<device::Buffer>& buffers,
                    device::Stream stream) {
  const int products = is_product(tail.branches[0]) + is_product(tail.branches[1]);
  with_products(math, [&](auto tag) {
    using Products = typename decltype(tag)::type;
    const auto launch = products == 0   ? ForwardLauncher<Products, 0>::launch
                        : products == 1 ? ForwardLauncher<Products, 1>::launch
                                        : ForwardLauncher<Products, 2>::launch;
    launch(phase, tail, buffers, stream);
  });
}

NeedsByKernel launch_needs() {
  NeedsByKernel needs;
  // Ways of computing products differ in their code, not in what they ask for.
  needs.merge(ForwardLauncher<Float32Products, 0>::needs());
  needs.merge(ForwardLauncher<Float32Products, 1>::needs());
  needs.merge(ForwardLauncher<Float32Products, 2>::needs());
  needs.merge(BackwardLauncher<Float32Products, false>::needs());
  needs.merge(BackwardLauncher<Float32Products, true>::needs());
  return needs;
}

}  // namespace fused_resnet
