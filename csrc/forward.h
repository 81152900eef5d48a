// Each way of computing products is compiled in a file of its own, for tails with projections and for those without:
// small files that compile side by side.
#pragma once

#include <map>
#include <string>

#include <dispatch.h>

namespace fused_resnet {

// What a kernel's launch asks of a multiprocessor. `blocks`: how many at a time its launch bounds leave registers for.
struct LaunchNeeds {
  int threads, shared_bytes, blocks;
};
// By kernel and whether the tail has projections: "forward<0>", "backward<1>".
using NeedsByKernel = std::map<std::string, LaunchNeeds>;

template <class Products, bool projections>
struct ForwardLauncher {
  static void launch(Phase phase, const Tail& tail, const std::vector<device::Buffer>& buffers, device::Stream stream);
  static NeedsByKernel needs();
};

NeedsByKernel launch_needs();

}  // namespace fused_resnet
