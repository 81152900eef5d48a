#include <engine/work.h>

#include <algorithm>
#include <utility>

#include <engine/grid.h>
#include <engine/settings.h>
#include <engine/thread.h>

namespace fused_resnet::emulator {
namespace {

// Loads of a thread that registers leave room for at the same time.
constexpr int loads_together = 12;
constexpr int bank_bytes = 4, row_bytes = 128;

// Of lanes that go at the same time.
int cycles(const SharedAccess* first, int count, std::uint32_t unit) {
  std::vector<std::uint32_t> words;
  for (int lane = 0; lane < count; ++lane)
    if (first[lane].bytes > 0) words.push_back(first[lane].offset / unit);
  std::sort(words.begin(), words.end());
  words.erase(std::unique(words.begin(), words.end()), words.end());
  std::vector<int> of_bank(row_bytes / unit);
  for (const std::uint32_t word : words) ++of_bank[word % of_bank.size()];
  return *std::max_element(of_bank.begin(), of_bank.end());
}

}  // namespace

void note_load() {
  note(Instruction::load);
  if (!settings.counting || running->loads++ % loads_together > 0) return;
  ++grid.work.load_rounds;
  running->warp->rounds += 1.0 / lanes;
}

void end_loads() { running->loads = 0; }

void note_wait(std::int64_t under_way, std::int64_t waited_for) {
  end_loads();
  if (!settings.counting || under_way == 0) return;
  ++grid.work.waits;
  grid.work.under_way += under_way;
  const double share = static_cast<double>(waited_for) / static_cast<double>(under_way);
  grid.work.drained += share;
  running->warp->rounds += share / lanes;
}

void note_shared(std::uint32_t offset, int bytes) {
  if (settings.counting) running->warp->accesses[running->index % lanes].push_back({offset, bytes});
}

void note_barrier() {
  end_loads();
  if (settings.counting) ++grid.work.barriers;
}

void note(Instruction instruction) {
  if (instruction != Instruction::load && instruction != Instruction::shared_access) end_loads();
  if (settings.counting) ++running->warp->issued[static_cast<int>(instruction)];
}

void add_wavefronts(Warp& warp) {
  if (!settings.counting) return;
  std::size_t instructions = 0;
  for (const SharedAccesses& of_lane : warp.accesses) instructions = std::max(instructions, of_lane.size());
  for (std::size_t i = 0; i < instructions; ++i) {
    SharedAccess together[lanes] = {};
    for (int lane = 0; lane < lanes; ++lane)
      if (i < warp.accesses[lane].size()) together[lane] = warp.accesses[lane][i];
    grid.work.wavefronts += wavefronts(together);
  }
  for (SharedAccesses& of_lane : warp.accesses) of_lane.clear();
}

void add_wavefronts(Block& block) {
  for (Warp& warp : block.warps) add_wavefronts(warp);
}

void end_work(Block& block) {
  add_wavefronts(block);
  const auto warps = static_cast<std::int64_t>(block.warps.size());
  for (int kind = 0; kind < instructions; ++kind) {
    std::int64_t most = 0;
    for (Warp& warp : block.warps) most = std::max(most, std::exchange(warp.issued[kind], 0));
    grid.work.issued[kind] += most * warps;
  }
  double rounds = 0.0;
  for (Warp& warp : block.warps) {
    rounds = std::max(rounds, std::exchange(warp.rounds, 0.0));
  }
  grid.work.rounds += rounds;
  grid.work.longest = std::max(grid.work.longest, rounds);
}

int wavefronts(const SharedAccess (&together)[lanes]) {
  int widest = bank_bytes;
  for (const SharedAccess& access : together) widest = std::max(widest, access.bytes);
  const int at_a_time = row_bytes / widest;
  int sum = 0;
  for (int lane = 0; lane < lanes; lane += at_a_time) sum += cycles(together + lane, at_a_time, widest);
  return sum;
}

}  // namespace fused_resnet::emulator
