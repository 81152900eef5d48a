// Launches of kernels whose blocks take item after item.
#pragma once

#include <algorithm>

#include <device/launch.h>
#include <tile.cuh>

namespace fused_resnet {

// Slots for steps: many, where a multiprocessor has the shared memory for two blocks of that, with the system's share.
inline int step_slots() {
  return device::multiprocessor_shared_memory() >= 2 * (many_shared_bytes + 1024) ? many_slots : few_slots;
}
// What a block takes then, and `least` otherwise.
inline int shared_bytes_of(int slots, int least) { return slots == many_slots ? many_shared_bytes : least; }

// As many blocks as have work, and no more than run at the same time. `how` says the rest.
template <class Parameters>
void launch_persistent(void (*kernel)(Parameters), device::Launch how, int items, const Parameters& parameters,
                       const std::vector<device::Buffer>& buffers, device::Stream stream) {
  static_assert(sizeof(Parameters) <= 4096, "what every driver passes to a kernel");
  const int resident = device::resident_blocks(kernel, how.threads, how.shared_bytes);
  how.blocks = std::min(items, resident);
  device::launch(kernel, how, parameters, buffers, stream);
}

}  // namespace fused_resnet
