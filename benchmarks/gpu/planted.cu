// Kernels with one mistake each, for compute-sanitizer's tools to find: a tool that reports nothing here reports nothing
// of other kernels either. Their names contain what the stage filters kernels by.
//
// planted memcheck | racecheck | initcheck | synccheck
#include <cstdio>
#include <cstring>

constexpr int threads = 64;

__global__ void fused_resnet_memcheck_kernel(int* to, const int* from) { to[threadIdx.x + 1] = from[threadIdx.x]; }

__global__ void fused_resnet_racecheck_kernel(int* to, const int* from) {
  __shared__ int values[threads];
  values[threadIdx.x] = from[threadIdx.x];
  to[threadIdx.x] = values[threads - 1 - threadIdx.x];  // no barrier ahead of it
}

__global__ void fused_resnet_initcheck_kernel(int* to, const int* from) { to[threadIdx.x] = from[threadIdx.x]; }

__global__ void fused_resnet_synccheck_kernel(int* to, const int* from) {
  if (from[threadIdx.x] == 0) __syncthreads();  // every other thread of a warp
  to[threadIdx.x] = from[threadIdx.x];
}

int main(int argc, char** argv) {
  const char* mistake = argc > 1 ? argv[1] : "";
  const auto is = [mistake](const char* name) { return std::strcmp(mistake, name) == 0; };
  int values[threads];
  for (int i = 0; i < threads; ++i) values[i] = i % 2;
  int *to = nullptr, *from = nullptr;
  cudaMalloc(&to, sizeof values);
  cudaMalloc(&from, sizeof values);
  if (!is("initcheck")) cudaMemcpy(from, values, sizeof values, cudaMemcpyHostToDevice);
  if (is("memcheck")) fused_resnet_memcheck_kernel<<<1, threads>>>(to, from);
  if (is("racecheck")) fused_resnet_racecheck_kernel<<<1, threads>>>(to, from);
  if (is("initcheck")) fused_resnet_initcheck_kernel<<<1, threads>>>(to, from);
  if (is("synccheck")) fused_resnet_synccheck_kernel<<<1, threads>>>(to, from);
  std::printf("%s: %s\n", mistake, cudaGetErrorString(cudaDeviceSynchronize()));
}
