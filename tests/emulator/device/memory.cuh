// The emulator's `csrc/device/memory.cuh`: every access is checked before it is made.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include <device/thread.cuh>
#include <engine/copies.h>
#include <engine/memory.h>
#include <engine/work.h>

namespace fused_resnet::device {

using SharedOffset = std::uint32_t;

template <class T>
DEVICE T shared_load(SharedOffset offset, emulator::Place place = emulator::Place::here()) {
  static_assert(std::is_trivially_copyable_v<T>);
  T value;
  std::memcpy(&value, emulator::shared_read<sizeof(T)>(offset, place), sizeof(T));
  return value;
}
template <class T>
DEVICE void shared_store(SharedOffset offset, T value, emulator::Place place = emulator::Place::here()) {
  static_assert(std::is_trivially_copyable_v<T>);
  std::memcpy(emulator::shared_write<sizeof(T)>(offset, place), &value, sizeof(T));
}

// `void` pointers below: a misaligned pointer must reach the check without a dereference that sanitizers would report.
template <class T>
DEVICE T global_load(const T* pointer, emulator::Place place = emulator::Place::here()) {
  static_assert(std::is_trivially_copyable_v<T>);
  emulator::global_read<sizeof(T)>(pointer, place);
  emulator::note_load();
  T value;
  std::memcpy(&value, static_cast<const void*>(pointer), sizeof(T));
  return value;
}
template <class T>
DEVICE void global_store(T* pointer, T value, emulator::Place place = emulator::Place::here()) {
  static_assert(std::is_trivially_copyable_v<T>);
  emulator::global_write<sizeof(T)>(pointer, place);
  std::memcpy(static_cast<void*>(pointer), &value, sizeof(T));
}

DEVICE void copy_async_16(SharedOffset to, const void* from, bool valid,
                          emulator::Place place = emulator::Place::here()) {
  emulator::copy_async<16>(to, from, valid ? 16 : 0, place);
}
DEVICE void copy_async_4(SharedOffset to, const void* from, int count,
                         emulator::Place place = emulator::Place::here()) {
  emulator::copy_async<4>(to, from, count, place);
}
DEVICE void copy_async_commit() { emulator::copy_async_commit(); }
template <int pending>
DEVICE void copy_async_wait() {
  emulator::copy_async_wait(pending);
}

}  // namespace fused_resnet::device
