#include <engine/launch.h>

#include <algorithm>
#include <mutex>
#include <stdexcept>

#include <engine/areas.h>
#include <engine/fault.h>
#include <engine/grid.h>
#include <engine/scheduler.h>
#include <engine/settings.h>

namespace fused_resnet::emulator {
namespace {

void check(const device::Launch& how) {
  const auto require = [&](bool holds, const char* what) {
    if (!holds) throw std::runtime_error(std::string("launch of ") + how.name + ": " + what);
  };
  require(how.threads > 0 && how.threads <= 1 << Actor::thread_bits, "number of threads");
  require(how.threads % lanes == 0, "the number of threads is no multiple of a warp");
  require(how.blocks > 0 && how.blocks <= 1 << Actor::block_bits, "number of blocks");
  require(how.shared_bytes >= 0, "size of shared memory");
  require(!how.cooperative || how.blocks <= resident_blocks(how.shared_bytes),
          "a cooperative launch of more blocks than are resident at the same time");
}

// What every thread runs.
void thread_main() {
  try {
    grid.body();
    check_no_copy_in_flight();
  } catch (...) {
    scheduler.abort(std::current_exception());
  }
  scheduler.finish();
}

void start_block(Block& block, int index, const device::Launch& how) {
  block.index = index;
  block.grid_size = how.blocks;
  block.began = ++grid.clock;
  block.barrier.reset(how.threads);
  block.shared_bytes = how.shared_bytes;
  block.shared.reserve(how.shared_bytes);
  block.shared_shadow.reserve(how.shared_bytes);
  block.warps.resize(how.threads / lanes);
  for (Warp& warp : block.warps) {
    warp.barrier.reset(lanes);
    std::fill_n(warp.issued, instructions, 0);
    warp.rounds = 0.0;
    order(warp, whole_grid, grid.began);
    order(warp, same_block, block.began);
  }
}

void start_thread(Thread& thread, Block& block, int index, int colour) {
  thread.index = index;
  thread.block = &block;
  thread.warp = &block.warps[index / lanes];
  thread.actor = Actor::of(block.index, index, thread.warp->barriers);
  thread.copies.reset();
  thread.loads = 0;
  thread.finished = false;
  scheduler.start(&thread, thread_main, colour);
}

// The first thread that waits, and one that it waits for in vain.
void check_all_finished(int threads) {
  const auto first = [&](auto condition) -> Thread* {
    for (int i = 0; i < threads; ++i) {
      if (condition(*grid.threads[i])) return grid.threads[i].get();
    }
    return nullptr;
  };
  Thread* waiting = first([](const Thread& thread) { return !thread.finished; });
  if (waiting == nullptr) return;
  std::string what = "deadlock: " + describe(waiting->meeting) + " is never complete";
  if (const Thread* other =
          first([&](const Thread& thread) { return !thread.finished && !(thread.meeting == waiting->meeting); })) {
    what += ", " + describe(*other) + " waits in " + describe(other->meeting);
  }
  if (const Thread* other = first([](const Thread& thread) { return thread.finished; })) {
    what += ", " + describe(*other) + " has returned";
  }
  running = waiting;
  fault(what, waiting->meeting.place);
}

// Runs `count` blocks at the same time.
void run_blocks(int first_block, int count, const device::Launch& how) {
  const int threads = count * how.threads;
  while (static_cast<int>(grid.blocks.size()) < count) grid.blocks.push_back(std::make_unique<Block>());
  while (static_cast<int>(grid.threads.size()) < threads) grid.threads.push_back(std::make_unique<Thread>());
  grid.alive_blocks = count;
  for (int block = 0; block < count; ++block) start_block(*grid.blocks[block], first_block + block, how);
  for (int i = 0; i < threads; ++i) {
    start_thread(*grid.threads[i], *grid.blocks[i / how.threads], i % how.threads, i);
  }
  scheduler.run();
  check_all_finished(threads);
  for (int block = 0; block < count; ++block) end_work(*grid.blocks[block]);
}

void start_grid(const device::Launch& how, std::function<void()> body) {
  grid.kernel = how.name;
  grid.body = std::move(body);
  grid.cooperative = how.cooperative;
  grid.began = ++grid.clock;
  grid.barrier.reset(how.blocks * how.threads);
  grid.phase = 0;
  grid.work = Work();
  grid.phases.clear();
  scheduler.begin(settings.seed);
}

}  // namespace

bool makes_launches() { return settings.launching; }

int resident_blocks(int shared_bytes) {
  constexpr int shared_bytes_of_multiprocessor = 100 << 10, most = 2;
  const int fit = shared_bytes == 0 ? most : shared_bytes_of_multiprocessor / shared_bytes;
  return settings.multiprocessors * std::clamp(fit, 1, most);
}

int multiprocessor_shared_memory() { return settings.shared_kib * 1024; }

void launch(const device::Launch& how, const std::vector<device::Buffer>& buffers, void* parameters,
            std::function<void()> body) {
  const std::lock_guard<std::mutex> lock(one_at_a_time);
  check(how);
  if (!settings.launching) {
    if (settings.counting) settings.records.push_back({how.name, how.cooperative, how.blocks, how.threads, {}});
    return;
  }
  start_grid(how, std::move(body));
  areas.open(buffers, parameters, grid.began);
  const int at_once = how.cooperative ? how.blocks : 1;
  for (int block = 0; block < how.blocks; block += at_once) run_blocks(block, at_once, how);
  end_phase();
  areas.close(grid.began);
  if (settings.counting) {
    settings.records.push_back({grid.kernel, how.cooperative, how.blocks, how.threads, std::move(grid.phases)});
  }
}

}  // namespace fused_resnet::emulator
