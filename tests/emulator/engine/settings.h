// What tests choose, by way of these C functions of the shared object.
#pragma once

#include <atomic>
#include <vector>

#include <engine/counters.h>

namespace fused_resnet::emulator {

struct Settings {
  unsigned seed = 0;
  std::atomic<int> multiprocessors{4};  // `resident_blocks` asks outside of launches
  std::atomic<int> shared_kib{228};     // of a multiprocessor, an H100's
  std::atomic<bool> launching{true};    // false: launches are checked and left out, to measure what is around them
  bool counting = false;
  std::vector<Record> records;  // of the launches since counting began or was reset
};

extern Settings settings;

}  // namespace fused_resnet::emulator

#define EMULATOR_EXPORT extern "C" __attribute__((visibility("default")))

// The order in which threads run; 0: the last that became ready first, others: random.
EMULATOR_EXPORT void emulator_set_seed(unsigned seed);
EMULATOR_EXPORT void emulator_set_multiprocessors(int count);
// What the launcher is told of a multiprocessor's shared memory.
EMULATOR_EXPORT void emulator_set_shared_kib(int kib);
EMULATOR_EXPORT void emulator_set_launching(int on);
EMULATOR_EXPORT void emulator_set_counting(int on);
EMULATOR_EXPORT void emulator_reset_counters();
// Valid until the next call, by any thread.
EMULATOR_EXPORT const char* emulator_counters_json();
