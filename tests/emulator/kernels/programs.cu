// Runs programs that tests make up: one list of instructions per thread, all of the same length.
#include <device/launch.h>
#include <device/memory.cuh>

#include "host.h"

namespace kernels {
namespace {

using namespace fused_resnet::device;

constexpr int program_threads = 64, program_blocks = 2;

enum Operation : int {
  nothing,
  read_shared,
  write_shared,
  read_global,
  write_global,
  sync_warp,
  sync_block,
  sync_grid
};

struct alignas(16) Instruction {
  int operation;
  int byte, size;  // what is accessed
  int unused;
};

struct Program {
  const Instruction* instructions;  // by step, then by thread of the grid
  int steps;
  std::uint8_t* memory;
  int bytes;  // of global memory, and of shared memory
};

template <class T>
DEVICE void access(const Instruction& instruction, std::uint8_t* memory) {
  T* pointer = reinterpret_cast<T*>(memory + instruction.byte);
  switch (instruction.operation) {
    case read_shared:
      shared_load<T>(instruction.byte);
      break;
    case write_shared:
      shared_store(instruction.byte, T{});
      break;
    case read_global:
      global_load(pointer);
      break;
    case write_global:
      global_store(pointer, T{});
      break;
  }
}

DEVICE void run(const Instruction& instruction, std::uint8_t* memory) {
  switch (instruction.operation) {
    case sync_warp:
      return warp_sync();
    case sync_block:
      return block_sync();
    case sync_grid:
      return grid_sync();
  }
  if (instruction.size == 1) access<std::uint8_t>(instruction, memory);
  if (instruction.size == 4) access<std::uint32_t>(instruction, memory);
}

KERNEL(program_threads, 1) run_all(PARAMETER Program program) {
  if (thread_index() < program.bytes) shared_store(thread_index(), std::uint8_t{0});
  block_sync();
  const int threads = grid_size() * program_threads, me = block_index() * program_threads + thread_index();
  for (int step = 0; step < program.steps; ++step) {
    run(global_load(program.instructions + step * threads + me), program.memory);
  }
}

}  // namespace

ENTRY run_program(const Instruction* instructions, int steps, std::uint8_t* memory, int bytes) {
  const std::size_t program_bytes = sizeof(Instruction) * steps * program_threads * program_blocks;
  return error_of([&] {
    launch(run_all, {"run_all", program_threads, bytes, program_blocks, true},
           Program{instructions, steps, memory, bytes},
           {{"instructions", offsetof(Program, instructions), instructions, program_bytes, Access::read},
            {"memory", offsetof(Program, memory), memory, static_cast<std::size_t>(bytes), Access::read_write}},
           nullptr);
  });
}

}  // namespace kernels
