#include <forward.cuh>

namespace fused_resnet {

template struct ForwardLauncher<Float32Products, false>;
template struct ForwardLauncher<Float32Products, true>;

}  // namespace fused_resnet
