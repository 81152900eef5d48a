#include <backward.cuh>

namespace fused_resnet {

template struct BackwardLauncher<HalfProducts<Float16>, false>;
template struct BackwardLauncher<HalfProducts<Float16>, true>;

}  // namespace fused_resnet
