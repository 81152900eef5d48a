// What the tests' C functions have in common. They return nullptr, or the text of the error.
#pragma once

#include <exception>
#include <string>

#include <device/launch.h>

#define ENTRY extern "C" __attribute__((visibility("default"))) const char*

namespace kernels {

using fused_resnet::device::Buffer;
using Access = Buffer::Access;

template <class Run>
const char* error_of(Run run) {
  static thread_local std::string message;
  try {
    run();
#if defined(__CUDACC__)
    fused_resnet::device::check(cudaDeviceSynchronize(), "kernel");
#endif
    return nullptr;
  } catch (const std::exception& error) {
    message = error.what();
    return message.c_str();
  }
}

}  // namespace kernels
