#include <backward.cuh>

namespace fused_resnet {

template struct BackwardLauncher<Float32Products, false>;
template struct BackwardLauncher<Float32Products, true>;

}  // namespace fused_resnet
