// Kernels with one mistake each, for compute-sanitizer's tools to find: a tool that reports nothing here reports nothing
// of other kernels either.
//
// planted memcheck | racecheck
#include <cstdio>
#include <cstring>

constexpr int threads = 64;

__global__ void memcheck_kernel(int* to, const int* from) { to[threadIdx.x + 1] = from[threadIdx.x]; }

__global__ void racecheck_kernel(int* to, const int* from) {
  __shared__ int values[threads];
  values[threadIdx.x] = from[threadIdx.x];
  to[threadIdx.x] = values[threads - 1 - threadIdx.x];  // no barrier ahead of it
}

int main(int argc, char** argv) {
  const char* mistake = argc > 1 ? argv[1] : "";
  const auto is = [mistake](const char* name) { return std::strcmp(mistake, name) == 0; };
  int values[threads] = {};
  int *to = nullptr, *from = nullptr;
  cudaMalloc(&to, sizeof values);
  cudaMalloc(&from, sizeof values);
  cudaMemcpy(from, values, sizeof values, cudaMemcpyHostToDevice);
  if (is("memcheck")) memcheck_kernel<<<1, threads>>>(to, from);
  if (is("racecheck")) racecheck_kernel<<<1, threads>>>(to, from);
  std::printf("%s: %s\n", mistake, cudaGetErrorString(cudaDeviceSynchronize()));
}
