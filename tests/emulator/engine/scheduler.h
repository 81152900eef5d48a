// Which thread runs next.
#pragma once

#include <cstdint>
#include <exception>
#include <vector>

#include <engine/fiber.h>

namespace fused_resnet::emulator {

struct Thread;

class Scheduler {
 public:
  // Seed 0: the last that became ready goes first. Others: drawn at random, the same way in each launch.
  void begin(std::uint32_t seed);
  void start(Thread* thread, void (*entry)(), int colour);
  void ready(Thread* thread) { ready_.push_back(thread); }

  // Until no thread is ready. Throws what a thread threw.
  void run();

  // The running thread stands aside until somebody calls `ready` for it.
  void wait();
  [[noreturn]] void finish();
  [[noreturn]] void abort(std::exception_ptr exception);

 private:
  Thread* take_next();

  std::vector<Thread*> ready_;
  std::uint32_t random_ = 0;
  Fiber host_;
  std::exception_ptr exception_;
};

extern __attribute__((visibility("hidden"))) Scheduler scheduler;

}  // namespace fused_resnet::emulator
