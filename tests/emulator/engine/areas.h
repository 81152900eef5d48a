// The global memory that a kernel may touch: the buffers of its launch.
//
// Buffers are copied to memory of their own with margins on both sides, so that an access out of bounds of one cannot
// be mistaken for an access to another; large ones stay where they are.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <vector>

#include <device/request.h>
#include <engine/counters.h>
#include <engine/mapping.h>
#include <engine/shadow.h>

namespace fused_resnet::emulator {

struct Area {
  std::string name;
  char* original;
  std::size_t bytes;
  bool readable_from_start, writable;

  char* first;  // `original`, or where the copy is
  Mapping copy;
  Shadow shadow;
  Time alive_since;  // bytes written earlier count as uninitialised
  Traffic traffic;   // of the present phase

  bool holds(std::uintptr_t address, std::size_t size) const {
    const std::uintptr_t offset = address - reinterpret_cast<std::uintptr_t>(first);
    return offset < bytes && bytes - offset >= size;
  }
};

class Areas {
 public:
  // Makes the pointers in the kernel's parameters point to the areas.
  void open(const std::vector<device::Buffer>& buffers, void* parameters, Time now);
  // Copies what the kernel has written back to the original buffers.
  void close(Time began);

  // The area that holds all the bytes, or nullptr.
  Area* find(const void* address, std::size_t bytes) {
    const auto wanted = reinterpret_cast<std::uintptr_t>(address);
    if (latest_ < used_ && areas_[latest_].holds(wanted, bytes)) return &areas_[latest_];
    for (latest_ = 0; latest_ < used_; ++latest_) {
      if (areas_[latest_].holds(wanted, bytes)) return &areas_[latest_];
    }
    return nullptr;
  }
  // The one an address out of bounds was probably meant for; nullptr where there are none.
  const Area* nearest(const void* address) const;

  // Calls visit(area) for all.
  template <class Visit>
  void for_each(Visit visit) {
    for (std::size_t i = 0; i < used_; ++i) visit(areas_[i]);
  }

 private:
  Area& area_of(const device::Buffer& buffer);
  void settle(Area& area, Time now);

  std::deque<Area> areas_;  // those from `used_` on lend their memory to later launches
  std::size_t used_ = 0, latest_ = 0;
};

extern __attribute__((visibility("hidden"))) Areas areas;

}  // namespace fused_resnet::emulator
