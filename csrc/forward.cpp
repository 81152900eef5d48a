#include <backward.h>

namespace fused_resnet {
namespace {

template <class Products>
void launch_products(Phase phase, const Tail& tail, const std::vector<device::Buffer>& buffers, device::Stream stream) {
  int products = 0;
  for (const Branch& branch : tail.branches)
    products += branch.source == Source::projection && branch.statistics != Statistics::product;
  switch (products) {
    case 0:
      return ForwardLauncher<Products, 0>::launch(phase, tail, buffers, stream);
    case 1:
      return ForwardLauncher<Products, 1>::launch(phase, tail, buffers, stream);
    default:
      return ForwardLauncher<Products, 2>::launch(phase, tail, buffers, stream);
  }
}

}  // namespace

void launch_forward(Math math, Phase phase, const Tail& tail, const std::vector<device::Buffer>& buffers,
                    device::Stream stream) {
  switch (math) {
    case Math::float32:
      return launch_products<Float32Products>(phase, tail, buffers, stream);
    case Math::tf32:
      return launch_products<Tf32Products>(phase, tail, buffers, stream);
    case Math::bfloat16:
      return launch_products<HalfProducts<BFloat16>>(phase, tail, buffers, stream);
    case Math::float16:
      return launch_products<HalfProducts<Float16>>(phase, tail, buffers, stream);
  }
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
