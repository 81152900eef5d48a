// Global memory as kernels access it.
#include <engine/areas.h>
#include <engine/fault.h>
#include <engine/memory.h>
#include <engine/thread.h>

namespace fused_resnet::emulator {
namespace {

std::int64_t offset(const Area& area, const void* address) {
  return reinterpret_cast<std::intptr_t>(address) - reinterpret_cast<std::intptr_t>(area.first);
}

std::string bytes_of(const Area& area, const void* address, int bytes) {
  return "bytes " + range(offset(area, address), bytes) + " of buffer " + area.name;
}

[[noreturn]] void out_of_bounds(const void* address, int bytes, const char* access, const Place& place) {
  const std::string what = std::string("out of bounds: ") + access + " of ";
  const Area* area = areas.nearest(address);
  if (area == nullptr) fault(what + "memory in a launch without buffers", place);
  fault(what + bytes_of(*area, address, bytes) + ", which has " + std::to_string(area->bytes), place);
}

template <int bytes>
Area& area_at(const void* address, const char* access, const Place& place) {
  Area* area = areas.find(address, bytes);
  if (area == nullptr) out_of_bounds(address, bytes, access, place);
  if (reinterpret_cast<std::uintptr_t>(address) % bytes != 0) {
    fault(std::string("misaligned: ") + access + " of " + bytes_of(*area, address, bytes), place);
  }
  return *area;
}

template <int bytes>
void check(const Finding& finding, const Area& area, const void* address, const char* access, const Place& place) {
  if (finding.verdict != Verdict::fine) fault(finding, access, bytes_of(area, address, bytes), place);
}

}  // namespace

template <int bytes>
void global_read(const void* address, const Place& place) {
  Area& area = area_at<bytes>(address, "read", place);
  const Finding finding = area.shadow.read<bytes>(offset(area, address), running->actor, area.alive_since);
  check<bytes>(finding, area, address, "read", place);
  area.traffic.requested_read += bytes;
  area.traffic.distinct_read += finding.first_in_phase;
}

template <int bytes>
void global_write(const void* address, const Place& place) {
  note(Instruction::store);
  Area& area = area_at<bytes>(address, "write", place);
  if (!area.writable) {
    fault("read-only: write of " + bytes_of(area, address, bytes), place);
  }
  const Finding finding = area.shadow.write<bytes>(offset(area, address), running->actor, area.alive_since);
  check<bytes>(finding, area, address, "write", place);
  area.traffic.requested_written += bytes;
  area.traffic.distinct_written += finding.first_in_phase;
}

template <int bytes>
void global_read_again(const void* address, const Place& place) {
  Area& area = area_at<bytes>(address, "read", place);
  const Finding finding = area.shadow.read<bytes>(offset(area, address), running->actor, area.alive_since);
  check<bytes>(finding, area, address, "copy", place);
}

#define INSTANTIATE(bytes)                                     \
  template void global_read<bytes>(const void*, const Place&); \
  template void global_write<bytes>(const void*, const Place&)
INSTANTIATE(1);
INSTANTIATE(2);
INSTANTIATE(4);
INSTANTIATE(8);
INSTANTIATE(16);
#undef INSTANTIATE
template void global_read_again<1>(const void*, const Place&);
template void global_read_again<4>(const void*, const Place&);
template void global_read_again<16>(const void*, const Place&);

}  // namespace fused_resnet::emulator
