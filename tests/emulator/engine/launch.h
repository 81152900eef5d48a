// From the host's call to the end of the kernel.
#pragma once

#include <functional>
#include <vector>

#include <device/request.h>

namespace fused_resnet::emulator {

// Whether launches are made at all (`emulator_set_launching`).
bool makes_launches();

int resident_blocks(int shared_bytes);
int multiprocessor_shared_memory();

// Runs `body` in each thread. `parameters` are those that `body` passes to the kernel: their pointers are redirected.
void launch(const device::Launch& how, const std::vector<device::Buffer>& buffers, void* parameters,
            std::function<void()> body);

}  // namespace fused_resnet::emulator
