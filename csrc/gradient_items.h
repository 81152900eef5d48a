// How the work of the backward's phases is cut into items, as partition.h does it for the forward.
#pragma once

#include <gradient.h>
#include <partition.h>

namespace fused_resnet {

// The projection's pre-norm tensor is computed again, and its gradient written.
HOST_DEVICE bool is_recomputed(const BranchGradient& branch) { return branch.dp.data != nullptr; }

// dW takes W Cov, which all of dgamma must precede.
HOST_DEVICE bool is_corrected(const Branch& branch, const BranchGradient& own) {
  return branch.statistics == Statistics::gram && own.dweight.data != nullptr;
}

// Whoever reads g has to make it of dy, by the relu's mask.
HOST_DEVICE bool masks_g(const TailGradient& gradient) {
  return gradient.tail.relu && !gradient.masks_input && !gradient.writes_g;
}

HOST_DEVICE bool has_quadratic(const BranchGradient& own) { return own.quadratic_exact != nullptr; }

HOST_DEVICE bool has_matrices(const TailGradient& gradient) {
  bool any = false;
  for (int index = 0; index < 2; ++index) {
    const BranchGradient& own = gradient.branches[index];
    any = any || is_corrected(gradient.tail.branches[index], own) || has_quadratic(own);
  }
  return any;
}

HOST_DEVICE bool is_folded(const BranchGradient& own) { return own.folded.matrix.data != nullptr; }

inline bool any_recomputed(const TailGradient& gradient) {
  return is_recomputed(gradient.branches[0]) || is_recomputed(gradient.branches[1]);
}

// `tiles(branch)` are those of a branch in each of the parts.
template <class Tiles>
Work work_of(const TailGradient& gradient, int parts, Tiles tiles) {
  const int before = tiles(gradient.branches[0]), all = before + tiles(gradient.branches[1]);
  return {before, all, parts * all};
}

inline int column_tiles(const TailGradient& gradient) { return tiles_of(gradient.tail.channels, tile_columns); }

inline Work reduce_work(const TailGradient& gradient) {
  return work_of(gradient, gradient.partition.ranges, [&](const BranchGradient& own) {
    if (own.reduction == Reduction::none) return 0;
    return own.reduction == Reduction::product ? own.product_tiles : column_tiles(gradient);
  });
}

// The items fit: 2^31 tiles would be 64 TiB.
inline Work apply_work(const TailGradient& gradient) {
  return work_of(gradient, tiles_of(gradient.tail.rows, tile_rows), [&](const BranchGradient& own) {
    if (is_recomputed(own)) return column_tiles(gradient);
    return own.dx.data == nullptr ? 0 : tiles_of(own.dx.channels, tile_columns);
  });
}

inline Work recomputed_products_work(const TailGradient& gradient) {
  return work_of(gradient, gradient.product_partition.ranges, [](const BranchGradient& own) {
    return is_recomputed(own) && own.dweight.data != nullptr ? own.product_tiles : 0;
  });
}

inline Work recomputed_inputs_work(const TailGradient& gradient) {
  return work_of(gradient, tiles_of(gradient.tail.rows, tile_rows), [](const BranchGradient& own) {
    return is_recomputed(own) && own.dx.data != nullptr ? tiles_of(own.dx.channels, tile_columns) : 0;
  });
}

// Warps that share a channel of the finish phase's vectors: a row of G takes as many as let a large GPU's blocks take
// all channels at the same time.
HOST_DEVICE int channel_sharers(const Tail& tail, const BranchGradient& own) {
  if (own.reduction != Reduction::product) return 1;
  int sharers = channel_group;
  while (sharers > 1 && tail.channels * sharers > resident_blocks * channel_group) sharers /= 2;
  return sharers;
}

HOST_DEVICE int vector_items(const Tail& tail, const BranchGradient& own) {
  return own.has_vectors ? tiles_of(tail.channels, channel_group / channel_sharers(tail, own)) : 0;
}

// Items of the finish phase's vectors.
inline int vector_items(const TailGradient& gradient) {
  return vector_items(gradient.tail, gradient.branches[0]) + vector_items(gradient.tail, gradient.branches[1]);
}

// Tiles of W Cov.
HOST_DEVICE int matrix_tiles(const Tail& tail, const Branch& branch) {
  return tiles_of(tail.channels, matrix_tile) * tiles_of(branch.x.channels, matrix_tile);
}

// Tiles of Q on and below the diagonal.
HOST_DEVICE int matrix_pairs(int inputs) {
  const int tiles = tiles_of(inputs, matrix_tile);
  return tiles * (tiles + 1) / 2;
}

inline int factor_items(const TailGradient& gradient) {
  int items = 0;
  for (const BranchGradient& own : gradient.branches)
    items += is_folded(own) ? tiles_of(own.dx.channels, channel_group) : 0;
  return items;
}

// Groups of channels, or more than the steps of the finish phase have: a grid of so many blocks is large enough.
inline int finish_items(const TailGradient& gradient) { return vector_items(gradient) + factor_items(gradient); }

}  // namespace fused_resnet
