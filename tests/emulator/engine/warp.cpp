#include <engine/warp.h>

#include <engine/fault.h>
#include <engine/grid.h>
#include <engine/scheduler.h>
#include <engine/thread.h>

namespace fused_resnet::emulator {
namespace {

template <class T>
struct Exchange {
  mutable T value;
  int mask;
};

template <class T>
void exchange_values(Warp& warp) {
  T values[lanes];
  for (int lane = 0; lane < lanes; ++lane) values[lane] = static_cast<const Exchange<T>*>(warp.operands[lane])->value;
  for (int lane = 0; lane < lanes; ++lane) {
    const auto* operand = static_cast<const Exchange<T>*>(warp.operands[lane]);
    operand->value = values[(lane ^ operand->mask) % lanes];
  }
}

}  // namespace

void meet(Instruction instruction, const Meeting& meeting, const void* operand, void (*work)(Warp&)) {
  Warp& warp = *running->warp;
  warp.operands[running->index % lanes] = operand;
  note(instruction);
  if (warp.barrier.join(meeting)) {
    add_wavefronts(warp);
    work(warp);
    warp.barrier.open();
  }
  scheduler.wait();
}

template <class T>
T warp_exchange(T value, int mask, const Place& place) {
  const Exchange<T> operand{value, mask};
  meet(Instruction::exchange, {"warp_exchange", place}, &operand, exchange_values<T>);
  return operand.value;
}
template float warp_exchange(float value, int mask, const Place& place);
template double warp_exchange(double value, int mask, const Place& place);

void warp_sync(const Place& place) {
  meet(Instruction::exchange, {"warp_sync", place}, nullptr, [](Warp& warp) { order(warp, same_warp, ++grid.clock); });
}

void block_sync(const Place& place) {
  Block& block = *running->block;
  note_barrier();
  if (block.barrier.join({"block_sync", place})) {
    order(block, same_block, ++grid.clock);
    add_wavefronts(block);
    block.barrier.open();
  }
  scheduler.wait();
}

void grid_sync(const Place& place) {
  if (!grid.cooperative) fault("grid_sync: the launch is not cooperative", place);
  end_loads();
  if (grid.barrier.join({"grid_sync", place})) {
    for (int block = 0; block < grid.alive_blocks; ++block) end_work(*grid.blocks[block]);
    end_phase();
    ++grid.phase;
    ++grid.clock;
    for (int block = 0; block < grid.alive_blocks; ++block) order(*grid.blocks[block], whole_grid, grid.clock);
    grid.barrier.open();
  }
  scheduler.wait();
}

}  // namespace fused_resnet::emulator
