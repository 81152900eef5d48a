#include <engine/areas.h>

#include <cstring>
#include <stdexcept>

namespace fused_resnet::emulator {

Areas areas;

namespace {

using Access = device::Buffer::Access;

constexpr std::size_t largest_copy = std::size_t{64} << 20;
constexpr std::size_t margin = std::size_t{64} << 10;
constexpr std::size_t largest_kept = std::size_t{4} << 20;  // memory that stays allocated between launches

std::string joined(const device::Name& name) {
  std::string all;
  for (const char* part : name.parts)
    if (part != nullptr) all += part;
  return all;
}

bool overlap(const Area& area, const device::Buffer& buffer) {
  const auto* first = static_cast<const char*>(buffer.first);
  return first < area.original + area.bytes && area.original < first + buffer.bytes;
}

// A relocated address must be as aligned or misaligned as the original.
std::size_t offset_in_page(const void* address) { return reinterpret_cast<std::uintptr_t>(address) % page_bytes; }

void redirect(void* parameters, std::size_t offset_in_parameters, const Area& area) {
  char* slot = static_cast<char*>(parameters) + offset_in_parameters;
  char* pointer;
  std::memcpy(&pointer, slot, sizeof(pointer));
  if (pointer == nullptr) return;
  const std::uintptr_t distance =
      reinterpret_cast<std::uintptr_t>(pointer) - reinterpret_cast<std::uintptr_t>(area.original);
  const std::uintptr_t moved = reinterpret_cast<std::uintptr_t>(area.first) + distance;
  std::memcpy(slot, &moved, sizeof(moved));
}

void copy_back(const Area& area, Time began) {
  const Stamp* writes = area.shadow.writes();
  const auto written = [&](std::size_t byte) { return writes[byte].time() >= began; };
  for (std::size_t first = 0, end; first < area.bytes; first = end + 1) {
    for (end = first; end < area.bytes && written(end);) ++end;
    std::memcpy(area.original + first, area.first + first, end - first);
  }
}

}  // namespace

void Areas::open(const std::vector<device::Buffer>& buffers, void* parameters, Time now) {
  used_ = 0;
  std::vector<Area*> chosen;
  for (const device::Buffer& buffer : buffers) chosen.push_back(buffer.bytes == 0 ? nullptr : &area_of(buffer));
  for_each([&](Area& area) { settle(area, now); });
  for (std::size_t i = 0; i < buffers.size(); ++i) {
    if (chosen[i] != nullptr) redirect(parameters, buffers[i].offset_in_parameters, *chosen[i]);
  }
}

Area& Areas::area_of(const device::Buffer& buffer) {
  const bool readable = buffer.access != Access::write, writable = buffer.access != Access::read;
  if (buffer.first == nullptr) throw std::runtime_error("null buffer: " + joined(buffer.name));
  for (std::size_t i = 0; i < used_; ++i) {
    Area& area = areas_[i];
    if (area.original == buffer.first && area.bytes == buffer.bytes) {
      area.name += "+" + joined(buffer.name);
      area.readable_from_start |= readable;
      area.writable |= writable;
      return area;
    }
    if (overlap(area, buffer) && (area.writable || writable)) {
      throw std::runtime_error("aliased buffers: " + area.name + " and " + joined(buffer.name) + " overlap");
    }
  }
  if (used_ == areas_.size()) areas_.emplace_back();
  Area& area = areas_[used_++];
  area.name = joined(buffer.name);
  area.original = static_cast<char*>(const_cast<void*>(buffer.first));
  area.bytes = buffer.bytes;
  area.readable_from_start = readable;
  area.writable = writable;
  return area;
}

void Areas::settle(Area& area, Time now) {
  area.shadow.reserve(area.bytes);
  area.alive_since = area.readable_from_start ? 0 : now;
  area.traffic = Traffic();
  area.first = area.original;
  if (area.bytes > largest_copy) return;
  area.copy.reserve(margin + page_bytes + area.bytes + margin);
  area.first = area.copy.first() + margin + offset_in_page(area.original);
  if (area.readable_from_start) std::memcpy(area.first, area.original, area.bytes);
}

void Areas::close(Time began) {
  for_each([&](Area& area) {
    if (area.writable && area.first != area.original) copy_back(area, began);
    if (area.bytes > largest_kept) {
      area.copy = Mapping();
      area.shadow = Shadow();
    }
  });
}

const Area* Areas::nearest(const void* address) const {
  const auto wanted = reinterpret_cast<std::uintptr_t>(address);
  const Area* best = nullptr;
  std::uintptr_t best_distance = 0;
  for (std::size_t i = 0; i < used_; ++i) {
    const auto first = reinterpret_cast<std::uintptr_t>(areas_[i].first), end = first + areas_[i].bytes;
    const std::uintptr_t distance = wanted < first ? first - wanted : wanted >= end ? wanted - end : 0;
    if (best == nullptr || distance < best_distance) {
      best = &areas_[i];
      best_distance = distance;
    }
  }
  return best;
}

}  // namespace fused_resnet::emulator
