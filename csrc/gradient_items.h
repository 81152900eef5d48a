// How the work of the backward's phases is cut into items, as partition.h does it for the forward.
#pragma once

#include <gradient.h>
#include <partition.h>

namespace fused_resnet {

// dW takes W Cov, which all of dgamma must precede.
HOST_DEVICE bool is_corrected(const Branch& branch, const BranchGradient& own) {
  return branch.statistics == Statistics::gram && own.dweight.data != nullptr;
}

// Whoever reads g has to make it of dy, by the relu's mask.
HOST_DEVICE bool masks_g(const TailGradient& gradient) {
  return gradient.tail.relu && !gradient.masks_input && !gradient.writes_g;
}

HOST_DEVICE bool has_quadratic(const BranchGradient& own) { return own.quadratic_exact != nullptr; }

inline bool is_folded(const BranchGradient& own) { return own.folded.matrix.data != nullptr; }

// `tiles(branch)` are those of a branch in each of the parts.
template <class Tiles>
Work work_of(const TailGradient& gradient, int parts, Tiles tiles) {
  const int before = tiles(gradient.branches[0]), all = before + tiles(gradient.branches[1]);
  return {before, all, parts * all};
}

inline int column_tiles(const TailGradient& gradient) { return tiles_of(gradient.tail.channels, tile_columns); }

// Whether a tile of g^T x has room for both branches' inputs: g is read and turned round once for both then. Inputs
// that come element by element are left apart: nobody is in a hurry there.
inline bool products_fit_one_tile(const TailGradient& gradient) {
  for (int i = 0; i < 2; ++i) {
    const Activations& x = gradient.tail.branches[i].x;
    if (gradient.branches[i].reduction != Reduction::product || !x.vectorised || x.channels > tile_columns / 2)
      return false;
  }
  return true;
}

// The same of dx.
inline bool dx_fits_one_tile(const TailGradient& gradient) {
  for (int i = 0; i < 2; ++i) {
    const BranchGradient& own = gradient.branches[i];
    if (gradient.tail.branches[i].source != Source::projection || own.dx.data == nullptr || own.cell.stride > 1 ||
        !own.folded.matrix.vectorised || (has_quadratic(own) && !own.quadratic.matrix.vectorised) ||
        own.dx.channels > tile_columns / 2)
      return false;
  }
  return (gradient.branches[0].folded.remainder.data == nullptr) ==
         (gradient.branches[1].folded.remainder.data == nullptr);
}

inline Work reduce_work(const TailGradient& gradient) {
  return work_of(gradient, gradient.partition.ranges, [&](const BranchGradient& own) {
    if (own.reduction == Reduction::none || (gradient.joined && &own != gradient.branches)) return 0;
    return own.reduction == Reduction::product ? own.product_tiles : column_tiles(gradient);
  });
}

inline bool has_tiles(const TailGradient& gradient, const BranchGradient& own) {
  return own.dx.data != nullptr && !(gradient.joined_dx && &own != gradient.branches);
}

// Tiles of dx, of the branches whose `kind` it is. The items fit: 2^31 tiles would be 64 TiB.
template <class Kind>
Work apply_work(const TailGradient& gradient, Kind kind) {
  return work_of(gradient, tiles_of(gradient.tail.rows, tile_rows), [&](const BranchGradient& own) {
    const bool takes_part = has_tiles(gradient, own) && kind(gradient.tail.branches[&own - gradient.branches], own);
    return takes_part ? tiles_of(own.dx.channels, tile_columns) : 0;
  });
}

inline ApplyWork apply_work(const TailGradient& gradient) {
  const auto of = [&](Source source) {
    return apply_work(gradient,
                      [source](const Branch& branch, const BranchGradient&) { return branch.source == source; });
  };
  const auto any = [](const Branch&, const BranchGradient&) { return true; };
  const auto strided = [](const Branch&, const BranchGradient& own) { return own.cell.stride > 1; };
  return {apply_work(gradient, strided), of(Source::direct), of(Source::zero_pad), of(Source::projection),
          apply_work(gradient, any).items};
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

// Items that share the sum over output channels for a tile of Q: so many that none has more to do than one that makes a
// tile of W Cov.
HOST_DEVICE int quadratic_parts(const Tail& tail, int inputs) {
  const int each = inputs > 2 * matrix_tile ? 2 * inputs : 4 * matrix_tile;
  return tail.channels > each ? tail.channels / each : 1;
}

// Tiles of shares of Q, on and below the diagonal.
inline Work quadratic_work(const TailGradient& gradient) {
  return work_of(gradient, 1, [&](const BranchGradient& own) {
    const int inputs = own.dx.channels, tiles = has_quadratic(own) ? tiles_of(inputs, matrix_tile) : 0;
    return tiles * (tiles + 1) / 2 * quadratic_parts(gradient.tail, inputs);
  });
}

// Tiles of W Cov.
inline Work correction_work(const TailGradient& gradient) {
  return work_of(gradient, 1, [&](const BranchGradient& own) {
    const Branch& branch = gradient.tail.branches[&own - gradient.branches];
    if (!is_corrected(branch, own)) return 0;
    return tiles_of(gradient.tail.channels, matrix_tile) * tiles_of(branch.x.channels, matrix_tile);
  });
}

// Groups of rows of a matrix for dx, of the branches that have it.
template <class Has>
Work row_work(const TailGradient& gradient, Has has) {
  return work_of(gradient, 1,
                 [&](const BranchGradient& own) { return has(own) ? tiles_of(own.dx.channels, channel_group) : 0; });
}

// Whether anything follows from the vectors.
HOST_DEVICE bool has_matrices(const TailGradient& gradient) {
  return gradient.corrections.items + gradient.foldings.items > 0;
}

// Groups of channels, or more than the steps of the finish phase have: a grid of so many blocks is large enough.
inline int finish_items(const TailGradient& gradient) { return vector_items(gradient) + gradient.foldings.items; }

}  // namespace fused_resnet
