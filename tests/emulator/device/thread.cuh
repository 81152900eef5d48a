// The emulator's `csrc/device/thread.cuh`.
#pragma once

#include <cstdint>

#include <engine/place.h>
#include <engine/thread.h>
#include <engine/warp.h>

#define DEVICE inline

namespace fused_resnet::device {

constexpr int warp_size = emulator::lanes;

DEVICE int thread_index() { return emulator::running->index; }
DEVICE int lane_index() { return emulator::running->index % warp_size; }
DEVICE int warp_index() { return emulator::running->index / warp_size; }
DEVICE int block_index() { return emulator::running->block->index; }
DEVICE int grid_size() { return emulator::running->block->grid_size; }

DEVICE std::int64_t unforeseen(std::int64_t value) { return value; }
DEVICE void stay_apart() {}

DEVICE void block_sync(emulator::Place place = emulator::Place::here()) { emulator::block_sync(place); }
DEVICE void warp_sync(emulator::Place place = emulator::Place::here()) { emulator::warp_sync(place); }
DEVICE void grid_sync(emulator::Place place = emulator::Place::here()) { emulator::grid_sync(place); }

template <class T>
DEVICE T warp_exchange(T value, int mask, emulator::Place place = emulator::Place::here()) {
  return emulator::warp_exchange(value, mask, place);
}

}  // namespace fused_resnet::device
