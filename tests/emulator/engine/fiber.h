// Flows of control with stacks of their own that hand the processor to each other.
#pragma once

#include <engine/mapping.h>

// Machines without a context switch of their own below take the operating system's, ten times as slow.
#if !defined(__x86_64__) && !defined(EMULATOR_UCONTEXT)
#define EMULATOR_UCONTEXT 1
#endif

#if defined(EMULATOR_UCONTEXT)
#include <ucontext.h>
#endif

namespace fused_resnet::emulator {

class Fiber {
 public:
  // Makes the next switch to this fiber call `entry`, which must not return. `colour` shifts the frames of different
  // fibers against each other: at equal offsets in their pages they would compete for the same lines of the cache.
  void prepare(void (*entry)(), int colour);

  // Goes on where `to` left off. The present flow of control, `from`, goes on when something switches to it; if it is
  // `finished`, never.
  static void switch_over(Fiber& from, Fiber& to, bool finished);

 private:
  static void enter();

  Mapping stack_;  // empty for the thread of the operating system
  void (*entry_)() = nullptr;
#if defined(EMULATOR_UCONTEXT)
  ucontext_t context_;
#else
  void* stack_pointer_ = nullptr;
#endif

  // For the address sanitizer alone.
  void* fake_stack_ = nullptr;
  const void* bottom_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace fused_resnet::emulator
