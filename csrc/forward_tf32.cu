#include <forward.cuh>

namespace fused_resnet {

template struct ForwardLauncher<Tf32Products, false>;
template struct ForwardLauncher<Tf32Products, true>;

}  // namespace fused_resnet
