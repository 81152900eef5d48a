#include <forward.cuh>

namespace fused_resnet {

template struct ForwardLauncher<Float32Products, 0>;
template struct ForwardLauncher<Float32Products, 1>;
template struct ForwardLauncher<Float32Products, 2>;

}  // namespace fused_resnet
