#include <forward.cuh>

namespace fused_resnet {

template struct ForwardLauncher<HalfProducts<Float16>, 0>;
template struct ForwardLauncher<HalfProducts<Float16>, 1>;
template struct ForwardLauncher<HalfProducts<Float16>, 2>;

}  // namespace fused_resnet
