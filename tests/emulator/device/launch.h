// The emulator's `csrc/device/launch.h`: `launch` runs the kernel to its end and throws the first fault.
#pragma once

#include <type_traits>
#include <vector>

#include <device/request.h>
#include <engine/launch.h>

#define KERNEL(threads, blocks) void
#define PARAMETER const

namespace fused_resnet::device {

using Stream = void*;

constexpr bool on_gpu = false;

inline bool wants_buffers() { return emulator::makes_launches(); }

inline void use_device(int) {}

inline int multiprocessor_shared_memory() { return emulator::multiprocessor_shared_memory(); }

template <class Parameters>
int resident_blocks(void (*)(Parameters), int, int shared_bytes) {
  return emulator::resident_blocks(shared_bytes);
}

template <class Parameters>
void launch(void (*kernel)(Parameters), const Launch& how, const Parameters& parameters,
            const std::vector<Buffer>& buffers, Stream) {
  static_assert(std::is_trivially_copyable_v<Parameters>);
  Parameters relocated = parameters;
  emulator::launch(how, buffers, &relocated, [&] { kernel(relocated); });
}

}  // namespace fused_resnet::device
