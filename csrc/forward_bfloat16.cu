#include <forward.cuh>

namespace fused_resnet {

template struct ForwardLauncher<HalfProducts<BFloat16>, false>;
template struct ForwardLauncher<HalfProducts<BFloat16>, true>;

}  // namespace fused_resnet
