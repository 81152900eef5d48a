// Kernels that come in pairs: a correct one, and one with a planted fault in the lines marked `// FAULT: name`.
#pragma once

#include <initializer_list>
#include <map>
#include <string>

#include <device/launch.h>
#include <device/memory.cuh>

namespace kernels {

constexpr int twin_threads = 64, twin_blocks = 2, twin_shared_bytes = 1024;
constexpr int twin_count = twin_threads * twin_blocks;

struct Twin {
  const float* input;  // each array has twin_count elements
  float* output;
  float* workspace;
};

struct Twins {
  const char* name;
  void (*correct)(Twin);
  void (*faulty)(Twin);
};

#define TWINS(name) {#name, name<false>, name<true>}

inline std::map<std::string, Twins>& all_twins() {
  static std::map<std::string, Twins> all;
  return all;
}

// Makes the twins of a file known to `run_twin`.
struct Registered {
  Registered(std::initializer_list<Twins> group) {
    for (const Twins& twins : group) all_twins()[twins.name] = twins;
  }
};

// This thread's element of an array.
DEVICE int element() {
  return fused_resnet::device::block_index() * twin_threads + fused_resnet::device::thread_index();
}
DEVICE float input(const Twin& twin) { return fused_resnet::device::global_load(twin.input + element()); }
DEVICE void output(const Twin& twin, float value) {
  fused_resnet::device::global_store(twin.output + element(), value);
}

}  // namespace kernels
