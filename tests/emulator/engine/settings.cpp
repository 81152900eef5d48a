#include <engine/settings.h>

#include <mutex>
#include <string>

#include <engine/grid.h>

namespace fused_resnet::emulator {

Settings settings;

}  // namespace fused_resnet::emulator

using fused_resnet::emulator::one_at_a_time;
using fused_resnet::emulator::settings;

void emulator_set_seed(unsigned seed) {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  settings.seed = seed;
}

void emulator_set_multiprocessors(int count) { settings.multiprocessors = count; }

void emulator_set_shared_kib(int kib) { settings.shared_kib = kib; }

void emulator_set_launching(int on) {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  settings.launching = on != 0;
}

void emulator_set_counting(int on) {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  settings.counting = on != 0;
}

void emulator_reset_counters() {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  settings.records.clear();
}

const char* emulator_counters_json() {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  static std::string text;
  text = json(settings.records);
  return text.c_str();
}
