// The primitives in which threads wait for each other.
#pragma once

#include <engine/barrier.h>
#include <engine/place.h>
#include <engine/work.h>

namespace fused_resnet::emulator {

struct Warp;

void block_sync(const Place& place);
void warp_sync(const Place& place);
void grid_sync(const Place& place);
// Of float or double.
template <class T>
T warp_exchange(T value, int mask, const Place& place);

// All lanes of the running thread's warp meet, each with an operand that stays where it is meanwhile; the last one to
// come does the work of all. Orders no accesses to memory: on GPUs only warp_sync does.
void meet(Instruction instruction, const Meeting& meeting, const void* operand, void (*work)(Warp&));

}  // namespace fused_resnet::emulator
