// What keeps a multiprocessor busy, beside traffic with global memory. Kept up only while launches are counted, but for
// multiply-adds.
#pragma once

#include <cstdint>
#include <vector>

namespace fused_resnet::emulator {

struct Block;
struct Warp;

// What warps issue, by what it costs.
enum class Instruction { product, matrices, transposed_matrices, exchange, shared_access, load, store, copy };
constexpr int instructions = static_cast<int>(Instruction::copy) + 1;

// Of one phase, all threads together: what a whole warp does counts 32 times.
struct Work {
  std::int64_t multiply_adds = 0;  // of tensor cores
  std::int64_t waits = 0;          // for asynchronous copies, where any were under way
  std::int64_t under_way = 0;      // bytes that were, as each of these waits began
  double drained = 0.0;            // the share of them that was waited for: 1 for a wait that leaves nothing under way
  std::int64_t load_rounds = 0;    // loads from global memory, those that are under way together once
  double rounds = 0.0;             // of drained + load_rounds: those of each block's busiest warp, a lane on average
  double longest = 0.0;            // of these, the most that a block has
  std::int64_t barriers = 0;       // of blocks
  std::int64_t wavefronts = 0;     // of shared memory: a cycle each, 128 bytes at best; once a warp
  std::int64_t issued[instructions] = {};  // of each kind, as if all warps of a block had as many as its busiest
};

// What a warp's lanes have accessed in shared memory since they met last.
struct SharedAccess {
  std::uint32_t offset;
  int bytes;
};
using SharedAccesses = std::vector<SharedAccess>;

// Of the running thread. An exchange, a product or a load of matrices is one of its whole warp. Loads are under way
// together as long as nothing is written, exchanged or waited for between.
void note_load();
void end_loads();
void note_wait(std::int64_t under_way, std::int64_t waited_for);
void note_shared(std::uint32_t offset, int bytes);
void note_barrier();
void note(Instruction instruction);

// The lanes of a warp have met: the first access of each since they met last was one instruction, the second another.
void add_wavefronts(Warp& warp);
void add_wavefronts(Block& block);

// A phase of the block has ended.
void end_work(Block& block);

// Cycles of an instruction: lanes that want different words of one bank follow each other. Of 16 bytes, 8 lanes go at a
// time, of 8 bytes 16. Lanes that take no part have 0 bytes.
int wavefronts(const SharedAccess (&lanes)[32]);

}  // namespace fused_resnet::emulator
