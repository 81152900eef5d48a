#include <engine/scheduler.h>

#include <cstdlib>
#include <utility>

#include <engine/thread.h>

namespace fused_resnet::emulator {

Scheduler scheduler;
Thread* running = nullptr;

void Scheduler::begin(std::uint32_t seed) {
  ready_.clear();
  random_ = seed * 2654435761u;  // odd, so that only seed 0 becomes 0; spreads small seeds over all bits
  exception_ = nullptr;
}

void Scheduler::start(Thread* thread, void (*entry)(), int colour) {
  thread->fiber.prepare(entry, colour);
  ready(thread);
}

Thread* Scheduler::take_next() {
  if (random_ != 0) {
    random_ ^= random_ << 13;  // xorshift
    random_ ^= random_ >> 17;
    random_ ^= random_ << 5;
    std::swap(ready_[static_cast<std::uint64_t>(random_) * ready_.size() >> 32], ready_.back());
  }
  Thread* next = ready_.back();
  ready_.pop_back();
  return next;
}

void Scheduler::run() {
  if (ready_.empty()) return;
  running = take_next();
  Fiber::switch_over(host_, running->fiber, false);
  running = nullptr;
  if (exception_ != nullptr) std::rethrow_exception(exception_);
}

void Scheduler::wait() {
  Thread* self = running;
  if (ready_.empty()) {
    Fiber::switch_over(self->fiber, host_, false);
    return;
  }
  running = take_next();
  if (running != self) Fiber::switch_over(self->fiber, running->fiber, false);
}

void Scheduler::finish() {
  Thread* self = running;
  self->finished = true;
  if (!ready_.empty()) running = take_next();
  Fiber::switch_over(self->fiber, running == self ? host_ : running->fiber, true);
  std::abort();
}

void Scheduler::abort(std::exception_ptr exception) {
  exception_ = std::move(exception);
  Fiber::switch_over(running->fiber, host_, true);
  std::abort();
}

}  // namespace fused_resnet::emulator
