#include <engine/grid.h>

#include <algorithm>

#include <engine/areas.h>

namespace fused_resnet::emulator {

Grid grid;
std::mutex one_at_a_time;

void order(Warp& warp, Scope scope, Time now) { std::fill(warp.barriers, warp.barriers + scope + 1, now); }

void order(Block& block, Scope scope, Time now) {
  for (Warp& warp : block.warps) order(warp, scope, now);
}

void end_phase() {
  Phase ended{grid.work, {}};
  areas.for_each([&](Area& area) {
    ended.buffers.emplace_back(area.name, area.traffic);
    area.traffic = Traffic();
  });
  grid.phases.push_back(std::move(ended));
  grid.work = Work();
}

}  // namespace fused_resnet::emulator
