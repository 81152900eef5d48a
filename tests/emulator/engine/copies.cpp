#include <engine/copies.h>

#include <cstring>

#include <engine/fault.h>
#include <engine/memory.h>
#include <engine/thread.h>

namespace fused_resnet::emulator {
namespace {

void land(const Copies::Copy& copy) {
  char* to = shared_land(copy.to);
  if (!copy.valid) {
    std::memset(to, 0, 16);
    return;
  }
  // Whoever has written to the source since the issue has raced with the copy.
  global_read_again(copy.from, copy.place);
  std::memcpy(to, copy.from, 16);
}

}  // namespace

void Copies::reset() {
  in_flight.clear();
  groups = 0;
}

void copy_async_16(std::uint32_t to, const void* from, bool valid, const Place& place) {
  if (valid) global_read<16>(from, place);
  shared_take_off(to, place);
  note(Instruction::copy);
  Copies& copies = running->copies;
  copies.in_flight.push_back({to, from, valid, copies.groups, place});
}

void copy_async_commit() { ++running->copies.groups; }

void copy_async_wait(int pending) {
  Copies& copies = running->copies;
  std::int64_t under_way = 0, waited_for = 0;
  for (const Copies::Copy& copy : copies.in_flight) under_way += copy.valid ? 16 : 0;
  auto first_left = copies.in_flight.begin();
  for (; first_left != copies.in_flight.end() && first_left->group < copies.groups - pending; ++first_left) {
    land(*first_left);
    waited_for += first_left->valid ? 16 : 0;
  }
  note_wait(under_way, waited_for);
  copies.in_flight.erase(copies.in_flight.begin(), first_left);
}

void check_no_copy_in_flight() {
  const Copies& copies = running->copies;
  if (copies.in_flight.empty()) return;
  const Copies::Copy& copy = copies.in_flight.front();
  fault("leak: the thread ends without a wait for its copy to shared bytes " + range(copy.to, 16), copy.place);
}

}  // namespace fused_resnet::emulator
