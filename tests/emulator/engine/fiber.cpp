#include <engine/fiber.h>

#include <cstdint>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

namespace fused_resnet::emulator {
namespace {

#if defined(__SANITIZE_ADDRESS__)
constexpr std::size_t stack_bytes = 256 << 10;  // its frames are several times as large
#else
constexpr std::size_t stack_bytes = 64 << 10;
#endif

// Of the switch under way: told here because the side that arrives may be a fiber's first instruction.
Fiber* leaving = nullptr;
Fiber* arriving = nullptr;

#if defined(EMULATOR_UCONTEXT)

void switch_context(ucontext_t& from, ucontext_t& to) { swapcontext(&from, &to); }

#else

// Saves the registers that the System V ABI leaves to the callee on the stack, and the stack pointer in *from.
extern "C" void emulator_switch_stack(void** from, void* to);
asm(R"(
.text
.hidden emulator_switch_stack
.globl emulator_switch_stack
.type emulator_switch_stack, @function
emulator_switch_stack:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emulator_switch_stack, . - emulator_switch_stack
)");

void switch_context(void*& from, void*& to) { emulator_switch_stack(&from, to); }

// The stack as `emulator_switch_stack` would have left it if `enter` had been about to begin.
void* first_frame(char* top, void (*enter)()) {
  auto* frame = reinterpret_cast<std::uintptr_t*>(top);
  *--frame = 0;  // no caller: debuggers stop here
  *--frame = reinterpret_cast<std::uintptr_t>(enter);
  for (int saved = 0; saved < 6; ++saved) *--frame = 0;
  return frame;
}

#endif

}  // namespace

void Fiber::prepare(void (*entry)(), int colour) {
  if (stack_.first() == nullptr) {
    stack_ = Mapping(page_bytes + stack_bytes);
    stack_.forbid_first_page();  // stacks grow down: an overflow must not reach the neighbour
    bottom_ = stack_.first() + page_bytes;
  }
  entry_ = entry;
  size_ = stack_bytes - colour % 32 * 128;
#if defined(__SANITIZE_ADDRESS__)
  __asan_unpoison_memory_region(bottom_, stack_bytes);  // frames of a flow of control that was never finished
#endif
  char* bottom = stack_.first() + page_bytes;
#if defined(EMULATOR_UCONTEXT)
  getcontext(&context_);
  context_.uc_stack.ss_sp = bottom;
  context_.uc_stack.ss_size = size_;
  makecontext(&context_, enter, 0);
#else
  stack_pointer_ = first_frame(bottom + size_, enter);
#endif
}

void Fiber::switch_over(Fiber& from, Fiber& to, [[maybe_unused]] bool finished) {
  leaving = &from;
  arriving = &to;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(finished ? nullptr : &from.fake_stack_, to.bottom_, to.size_);
#endif
#if defined(EMULATOR_UCONTEXT)
  switch_context(from.context_, to.context_);
#else
  switch_context(from.stack_pointer_, to.stack_pointer_);
#endif
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.fake_stack_, &leaving->bottom_, &leaving->size_);
#endif
}

void Fiber::enter() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &leaving->bottom_, &leaving->size_);
#endif
  arriving->entry_();
}

}  // namespace fused_resnet::emulator
