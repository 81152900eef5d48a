#include <engine/copies.h>

#include <cstring>

#include <engine/fault.h>
#include <engine/memory.h>
#include <engine/thread.h>

namespace fused_resnet::emulator {
namespace {

template <int bytes>
void land(const Copies::Copy& copy) {
  char* to = shared_land<bytes>(copy.to);
  std::memset(to, 0, bytes);
  // Whoever has written to the source since the issue has raced with the copy.
  const char* from = static_cast<const char*>(copy.from);
  if (copy.count == bytes) global_read_again<bytes>(from, copy.place);
  for (int i = 0; copy.count < bytes && i < copy.count; ++i) global_read_again<1>(from + i, copy.place);
  std::memcpy(to, from, copy.count);
}

}  // namespace

void Copies::reset() {
  in_flight.clear();
  groups = 0;
}

template <int bytes>
void copy_async(std::uint32_t to, const void* from, int count, const Place& place) {
  const char* first = static_cast<const char*>(from);
  if (count == bytes) global_read<bytes>(first, place);
  for (int i = 0; count < bytes && i < count; ++i) global_read<1>(first + i, place);
  shared_take_off<bytes>(to, place);
  note(Instruction::copy);
  Copies& copies = running->copies;
  copies.in_flight.push_back({to, from, bytes, count, copies.groups, place});
}

template void copy_async<4>(std::uint32_t, const void*, int, const Place&);
template void copy_async<16>(std::uint32_t, const void*, int, const Place&);

void copy_async_commit() { ++running->copies.groups; }

void copy_async_wait(int pending) {
  Copies& copies = running->copies;
  std::int64_t under_way = 0, waited_for = 0;
  for (const Copies::Copy& copy : copies.in_flight) under_way += copy.count;
  auto first_left = copies.in_flight.begin();
  for (; first_left != copies.in_flight.end() && first_left->group < copies.groups - pending; ++first_left) {
    first_left->bytes == 4 ? land<4>(*first_left) : land<16>(*first_left);
    waited_for += first_left->count;
  }
  note_wait(under_way, waited_for);
  copies.in_flight.erase(copies.in_flight.begin(), first_left);
}

void check_no_copy_in_flight() {
  const Copies& copies = running->copies;
  if (copies.in_flight.empty()) return;
  const Copies::Copy& copy = copies.in_flight.front();
  fault("leak: the thread ends without a wait for its copy to shared bytes " + range(copy.to, copy.bytes), copy.place);
}

}  // namespace fused_resnet::emulator
