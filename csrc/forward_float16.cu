#include <forward.cuh>

namespace fused_resnet {

template struct ForwardLauncher<HalfProducts<Float16>, false>;
template struct ForwardLauncher<HalfProducts<Float16>, true>;

}  // namespace fused_resnet
