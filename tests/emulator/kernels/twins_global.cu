// Mistakes with global memory.
#include <scalar.h>

#include "twins.h"

namespace kernels {
namespace {

using namespace fused_resnet;
using namespace fused_resnet::device;

DEVICE bool last() { return element() == twin_count - 1; }

template <bool faulty>
KERNEL(twin_threads, 1)
missing_grid_barrier(PARAMETER Twin twin) {
  global_store(twin.workspace + element(), 0.0f);
  grid_sync();
  global_store(twin.workspace + element(), input(twin));  // FAULT: missing_grid_barrier
  if constexpr (faulty) {
    block_sync();
  } else {
    grid_sync();
  }
  output(twin, global_load(twin.workspace + twin_count - 1 - element()));  // FAULT: missing_grid_barrier
}

template <bool faulty>
KERNEL(twin_threads, 1)
global_missing_block_barrier(PARAMETER Twin twin) {
  global_store(twin.workspace + element(), 0.0f);
  block_sync();
  global_store(twin.workspace + element(), input(twin));  // FAULT: global_missing_block_barrier
  if (!faulty) block_sync();
  output(twin, global_load(twin.workspace + (element() ^ 32)));  // FAULT: global_missing_block_barrier
}

template <bool faulty>
KERNEL(twin_threads, 1)
racing_blocks(PARAMETER Twin twin) {
  if (thread_index() == 0 && (faulty || block_index() == 0)) {
    global_store(twin.workspace + 1, 1.0f);  // FAULT: racing_blocks
  }
  output(twin, input(twin));
}

template <bool faulty>
KERNEL(twin_threads, 1)
read_past_end(PARAMETER Twin twin) {
  const int next = element() + (faulty || !last() ? 1 : 0);
  output(twin, global_load(twin.input + next));  // FAULT: read_past_end
}

template <bool faulty>
KERNEL(twin_threads, 1)
read_before_begin(PARAMETER Twin twin) {
  const int previous = element() - (faulty || element() > 0 ? 1 : 0);
  output(twin, global_load(twin.input + previous));  // FAULT: read_before_begin
}

template <bool faulty>
KERNEL(twin_threads, 1)
write_past_end(PARAMETER Twin twin) {
  global_store(twin.output + element() + (faulty ? 1 : 0), input(twin));  // FAULT: write_past_end
}

template <bool faulty>
KERNEL(twin_threads, 1)
global_misaligned(PARAMETER Twin twin) {
  const void* address = twin.input + (faulty ? 2 : 4);
  const auto vector = global_load(static_cast<const Vector16<float>*>(address));  // FAULT: global_misaligned
  output(twin, vector.values[0]);
}

template <bool faulty>
KERNEL(twin_threads, 1)
workspace_uninitialised(PARAMETER Twin twin) {
  if (!faulty || !last()) global_store(twin.workspace + element(), input(twin));
  output(twin, global_load(twin.workspace + element()));  // FAULT: workspace_uninitialised
}

template <bool faulty>
KERNEL(twin_threads, 1)
write_to_read_only(PARAMETER Twin twin) {
  float* to = faulty ? const_cast<float*>(twin.input) : twin.output;
  global_store(to + element(), 1.0f);  // FAULT: write_to_read_only
}

const Registered registered{
    TWINS(missing_grid_barrier), TWINS(global_missing_block_barrier),
    TWINS(racing_blocks),        TWINS(read_past_end),
    TWINS(read_before_begin),    TWINS(write_past_end),
    TWINS(global_misaligned),    TWINS(workspace_uninitialised),
    TWINS(write_to_read_only),
};

}  // namespace
}  // namespace kernels
