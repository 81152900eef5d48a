#include <engine/fault.h>

#include <stdexcept>

#include <engine/grid.h>
#include <engine/thread.h>

namespace fused_resnet::emulator {
namespace {

std::string describe(int block, int thread) {
  return "thread " + std::to_string(thread) + " of block " + std::to_string(block);
}

std::string readers(const Stamp& stamp) {
  switch (stamp.scope()) {
    case same_thread:
      return describe(stamp.block(), stamp.thread());
    case same_warp:
      return "several threads of a warp, " + describe(stamp.block(), stamp.thread()) + " among them";
    case same_block:
      return "several warps of block " + std::to_string(stamp.block());
    default:
      return "several blocks";
  }
}

}  // namespace

void fault(const std::string& what, const Place& place) {
  throw std::runtime_error(what + "; kernel " + grid.kernel + ", phase " + std::to_string(grid.phase) + ", " +
                           describe(*running) + ", " + describe(place));
}

void fault(const Finding& finding, const char* access, const std::string& bytes, const Place& place) {
  const std::string of_bytes = std::string(access) + " of " + bytes;
  const std::string writer = describe(finding.other.block(), finding.other.thread());
  if (finding.verdict == Verdict::uninitialised) fault("uninitialised: " + of_bytes + ", never written", place);
  if (finding.verdict == Verdict::in_flight) {
    fault("in flight: " + of_bytes + " before the wait for a copy that " + writer + " has issued", place);
  }
  const std::string other =
      finding.verdict == Verdict::race_with_write ? "written by " + writer : "read by " + readers(finding.other);
  fault("race: " + of_bytes + ", " + other + " with no barrier in between", place);
}

std::string describe(const Place& place) { return std::string(place.file) + ":" + std::to_string(place.line); }

std::string describe(const Meeting& meeting) {
  return std::string(meeting.primitive) + " in " + describe(meeting.place);
}

std::string describe(const Thread& thread) { return describe(thread.block->index, thread.index); }

std::string range(std::int64_t first, std::int64_t bytes) {
  return "[" + std::to_string(first) + ", " + std::to_string(first + bytes) + ")";
}

}  // namespace fused_resnet::emulator
