#include <engine/barrier.h>

#include <engine/fault.h>
#include <engine/scheduler.h>
#include <engine/thread.h>

namespace fused_resnet::emulator {

void Barrier::reset(int expected) {
  expected_ = expected;
  present_.clear();
}

bool Barrier::join(const Meeting& meeting) {
  running->meeting = meeting;
  if (!present_.empty() && !(present_.front()->meeting == meeting)) {
    fault("divergence: " + describe(meeting) + ", while " + describe(*present_.front()) + " waits in " +
              describe(present_.front()->meeting),
          meeting.place);
  }
  present_.push_back(running);
  return static_cast<int>(present_.size()) == expected_;
}

void Barrier::open() {
  for (Thread* thread : present_) scheduler.ready(thread);
  present_.clear();
}

}  // namespace fused_resnet::emulator
