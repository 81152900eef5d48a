#include <backward.cuh>

namespace fused_resnet {

template struct BackwardLauncher<HalfProducts<BFloat16>, false>;
template struct BackwardLauncher<HalfProducts<BFloat16>, true>;

}  // namespace fused_resnet
