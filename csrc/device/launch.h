// How the host launches kernels: the one place where `<<<>>>`'s counterpart is called and checked.
#pragma once

#include <cuda_runtime.h>

#include <map>
#include <mutex>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include <device/request.h>

// Written before a kernel and its one parameter: KERNEL(threads, blocks_per_multiprocessor) name(PARAMETER Tail tail)
#define KERNEL(threads, blocks) __global__ void __launch_bounds__(threads, blocks)
#define PARAMETER const __grid_constant__

namespace fused_resnet::device {

// How many of `blocks` a multiprocessor's shared memory lets in: registers need not be left for more. (CUDA C++
// Programming Guide, "Technical Specifications per Compute Capability"; 1 KiB a block is the system's.)
#if defined(__CUDA_ARCH__) && (__CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200)
constexpr int multiprocessor_shared_bytes = 100 * 1024;
#else
constexpr int multiprocessor_shared_bytes = 164 * 1024;  // at least
#endif
constexpr int fitting_blocks(int blocks, int shared_bytes) {
  const int fitting = multiprocessor_shared_bytes / (shared_bytes + 1024);
  return fitting < blocks ? fitting : blocks;
}

using Stream = cudaStream_t;

// The kernels run on a GPU's memory and streams.
constexpr bool on_gpu = true;

inline void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // not sticky: the next launch must not report it again
  throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(status));
}

// Whether launches look at the buffers that they are given.
constexpr bool wants_buffers() { return false; }

// Makes launches of this thread go to the GPU. The caller has done so for its own copy of the CUDA runtime; this module
// carries one of its own.
inline void use_device(int index) { check(cudaSetDevice(index), "choice of the GPU"); }

// Bytes that the blocks of a multiprocessor of the current device share.
inline int multiprocessor_shared_memory() {
  int device = 0, bytes = 0;
  check(cudaGetDevice(&device), "current device");
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerMultiprocessor, device), "shared memory");
  return bytes;
}

inline int count_resident_blocks(const void* kernel, int device, int threads, int shared_bytes) {
  int multiprocessors = 0, blocks = 0;
  check(cudaDeviceGetAttribute(&multiprocessors, cudaDevAttrMultiProcessorCount, device), "number of multiprocessors");
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes),
        "shared memory of a kernel");
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, threads, shared_bytes), "occupancy of a kernel");
  return multiprocessors * blocks;
}

// Blocks of the kernel that the current device holds at the same time, which from then on may launch it with so much
// shared memory. Counted once: it takes microseconds.
template <class Parameters>
int resident_blocks(void (*kernel)(Parameters), int threads, int shared_bytes) {
  static std::mutex mutex;
  static std::map<std::tuple<const void*, int, int, int>, int> counted;
  int device = 0;
  check(cudaGetDevice(&device), "current device");
  const std::tuple key{reinterpret_cast<const void*>(kernel), device, threads, shared_bytes};
  const std::lock_guard<std::mutex> lock(mutex);
  const auto found = counted.find(key);
  if (found != counted.end()) return found->second;
  const int blocks = count_resident_blocks(std::get<0>(key), device, threads, shared_bytes);
  counted.emplace(key, blocks);
  return blocks;
}

template <class Parameters>
void launch(void (*kernel)(Parameters), const Launch& how, const Parameters& parameters, const std::vector<Buffer>&,
            Stream stream) {
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeCooperative;
  attribute.val.cooperative = how.cooperative ? 1 : 0;
  cudaLaunchConfig_t config{};
  config.gridDim = dim3(how.blocks);
  config.blockDim = dim3(how.threads);
  config.dynamicSmemBytes = how.shared_bytes;
  config.stream = stream;
  config.attrs = &attribute;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, parameters), how.name);
}

}  // namespace fused_resnet::device
