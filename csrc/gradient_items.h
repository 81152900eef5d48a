// How the work of the backward's phases is cut into items, as partition.h does it for the forward.
#pragma once

#include <gradient.h>
#include <partition.h>

namespace fused_resnet {

HOST_DEVICE int column_tiles(const Tail& tail) { return tiles_of(tail.channels, tile_columns); }

// Tiles of g^T x.
HOST_DEVICE int product_tiles(const Tail& tail, int branch) {
  return column_tiles(tail) * tiles_of(tail.branches[branch].x.channels, tile_columns);
}

// Tiles of the reduction that cover one range of rows.
HOST_DEVICE int reduce_tiles(const TailGradient& gradient, int branch) {
  switch (gradient.branches[branch].reduction) {
    case Reduction::none:
      return 0;
    case Reduction::product:
      return product_tiles(gradient.tail, branch);
    default:
      return column_tiles(gradient.tail);
  }
}

HOST_DEVICE int reduce_items(const TailGradient& gradient) {
  return (reduce_tiles(gradient, 0) + reduce_tiles(gradient, 1)) * gradient.partition.ranges;
}

// The projection's pre-norm tensor is computed again, and its gradient written.
HOST_DEVICE bool is_recomputed(const BranchGradient& branch) { return branch.dp.data != nullptr; }

// dW takes W Cov, which all of dgamma must precede.
HOST_DEVICE bool is_corrected(const Branch& branch, const BranchGradient& own) {
  return branch.statistics == Statistics::gram && own.dweight.data != nullptr;
}

HOST_DEVICE bool is_folded(const BranchGradient& own) { return own.folded.data != nullptr; }

// Tiles of the apply phase that cover 128 rows; a recomputed branch's are those of dp.
HOST_DEVICE int apply_tiles(const TailGradient& gradient, int branch) {
  const BranchGradient& own = gradient.branches[branch];
  if (is_recomputed(own)) return column_tiles(gradient.tail);
  return own.dx.data == nullptr ? 0 : tiles_of(own.dx.channels, tile_columns);
}

// What follows where dp is complete: tiles of dp^T x over one range of rows, and of dx over 128 rows.
HOST_DEVICE int recomputed_product_tiles(const TailGradient& gradient, int branch) {
  const BranchGradient& own = gradient.branches[branch];
  return is_recomputed(own) && own.dweight.data != nullptr ? product_tiles(gradient.tail, branch) : 0;
}
HOST_DEVICE int recomputed_input_tiles(const TailGradient& gradient, int branch) {
  const BranchGradient& own = gradient.branches[branch];
  return is_recomputed(own) && own.dx.data != nullptr ? tiles_of(own.dx.channels, tile_columns) : 0;
}

// Groups of channels of both steps of the finish phase.
inline int finish_items(const TailGradient& gradient) {
  int vectors = 0, matrices = 0;
  for (int index = 0; index < 2; ++index) {
    const Branch& branch = gradient.tail.branches[index];
    const BranchGradient& own = gradient.branches[index];
    const int outputs = tiles_of(gradient.tail.channels, channel_group);
    vectors += own.has_vectors ? outputs : 0;
    matrices +=
        (is_corrected(branch, own) ? outputs : 0) + (is_folded(own) ? tiles_of(branch.x.channels, channel_group) : 0);
  }
  return vectors > matrices ? vectors : matrices;
}

// Of the first step of the apply phase, the widest.
inline std::int64_t apply_items(const TailGradient& gradient) {
  return static_cast<std::int64_t>(tiles_of(gradient.tail.rows, tile_rows)) *
         (apply_tiles(gradient, 0) + apply_tiles(gradient, 1));
}

HOST_DEVICE bool any_recomputed(const TailGradient& gradient) {
  return is_recomputed(gradient.branches[0]) || is_recomputed(gradient.branches[1]);
}

}  // namespace fused_resnet
