// Shared memory of the running thread's block.
#include <engine/fault.h>
#include <engine/memory.h>
#include <engine/thread.h>

namespace fused_resnet::emulator {
namespace {

std::string shared_bytes(std::uint32_t offset, int bytes) { return "shared bytes " + range(offset, bytes); }

template <int bytes>
void check_address(std::uint32_t offset, const char* access, const Place& place) {
  const std::uint32_t size = running->block->shared_bytes;
  if (offset > size || size - offset < bytes) {
    fault(
        std::string("out of bounds: ") + access + " of " + shared_bytes(offset, bytes) + " of " + std::to_string(size),
        place);
  }
  if (offset % bytes != 0) {
    fault(std::string("misaligned: ") + access + " of " + shared_bytes(offset, bytes), place);
  }
}

}  // namespace

template <int bytes>
const char* shared_read(std::uint32_t offset, const Place& place) {
  check_address<bytes>(offset, "read", place);
  Block& block = *running->block;
  const Finding finding = block.shared_shadow.read<bytes>(offset, running->actor, block.began);
  if (finding.verdict != Verdict::fine) fault(finding, "read", shared_bytes(offset, bytes), place);
  note(Instruction::shared_access);
  note_shared(offset, bytes);
  return block.shared.first() + offset;
}

template <int bytes>
char* shared_write(std::uint32_t offset, const Place& place) {
  check_address<bytes>(offset, "write", place);
  Block& block = *running->block;
  const Finding finding = block.shared_shadow.write<bytes>(offset, running->actor, block.began);
  if (finding.verdict != Verdict::fine) fault(finding, "write", shared_bytes(offset, bytes), place);
  end_loads();
  note(Instruction::shared_access);
  note_shared(offset, bytes);
  return block.shared.first() + offset;
}

template <int bytes>
void shared_take_off(std::uint32_t offset, const Place& place) {
  check_address<bytes>(offset, "copy", place);
  Block& block = *running->block;
  const Finding finding = block.shared_shadow.take_off<bytes>(offset, running->actor, block.began);
  if (finding.verdict != Verdict::fine) fault(finding, "copy", shared_bytes(offset, bytes), place);
  note_shared(offset, bytes);
}

template <int bytes>
char* shared_land(std::uint32_t offset) {
  Block& block = *running->block;
  block.shared_shadow.land<bytes>(offset, running->actor);
  return block.shared.first() + offset;
}

#define INSTANTIATE(bytes)                                              \
  template const char* shared_read<bytes>(std::uint32_t, const Place&); \
  template char* shared_write<bytes>(std::uint32_t, const Place&)
INSTANTIATE(1);
INSTANTIATE(2);
INSTANTIATE(4);
INSTANTIATE(8);
INSTANTIATE(16);
#undef INSTANTIATE

#define INSTANTIATE(bytes)                                           \
  template void shared_take_off<bytes>(std::uint32_t, const Place&); \
  template char* shared_land<bytes>(std::uint32_t)
INSTANTIATE(4);
INSTANTIATE(16);
#undef INSTANTIATE

}  // namespace fused_resnet::emulator
