#include <forward.cuh>

namespace fused_resnet {

template struct ForwardLauncher<HalfProducts<BFloat16>, 0>;
template struct ForwardLauncher<HalfProducts<BFloat16>, 1>;
template struct ForwardLauncher<HalfProducts<BFloat16>, 2>;

}  // namespace fused_resnet
