#include <backward.cuh>

namespace fused_resnet {

template struct BackwardLauncher<Tf32Products, false>;
template struct BackwardLauncher<Tf32Products, true>;

}  // namespace fused_resnet
