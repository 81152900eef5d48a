// The launch interface of the backward: what the gradients of a residual tail are to the kernels.
//
// g = dy where y > 0 is the gradient of the sum of both branches; what follows from it for a branch is in
// docs/design.md, section 3.
#pragma once

#include <tail.h>

namespace fused_resnet {

// What is summed over the rows before anything else is known.
enum class Reduction {
  none,
  incoming,  // g alone
  dot,       // g (z - mean), a channel of a direct source: its norm's
  product,   // g^T x of a projection
};

// The pixels of a strided input around the one that is read: `stride` x `stride` of them, within height x width.
struct Cell {
  int stride, height, width;
  std::int64_t stride_h, stride_w;  // between pixels, in elements
};

// The passes of the backward's last phase, which follow each other. Each has all blocks: products of many steps take a
// multiple of what sums of tensors take, and blocks that had tiles of these would wait for those with tiles of
// products.
struct ApplyWork {
  Work zeros, direct, zero_padded, projections;
  int items;  // tiles of both branches
};

// A matrix (K, .) that dx is multiplied from, with the summed dimension side by side. Its rows are divided by `scale`,
// powers of two, so that they fit half precision; `remainder`, where there is one, is what rounding took from `matrix`.
struct Factor {
  Matrix matrix, remainder;
  float* scale;  // (K)
};

struct BranchGradient {
  Reduction reduction;
  bool has_vectors;  // gradients of vectors are asked for, or needed for others

  // Results, null where nobody asked.
  Activations dx;   // at the pixels that are read
  Cell cell;        // the others of dx, which become zeros
  bool vectorised;  // dx and what it is made of can be accessed 16 bytes at once
  Matrix dweight;
  void* dbias;   // (C), of the weight's type
  void* dgamma;  // (C), of the norm's type
  void* dbeta;

  int input_tiles, product_tiles;  // of K, and of g^T x

  // For a training norm whose statistics several processes share (docs/design.md, "Several processes"); else null.
  const float* own_mean;  // (C), mean of this process's p where `mean` is that of all
  float* shared_sum;      // (C): sum of all processes' g times this one's share of the rows, as in `dot`

  // Workspace. `product` is g^T (x - m) with m = mu in a training norm, m = shift otherwise.
  float* partial_dot;      // dot: (ranges, C)
  float* partial_product;  // (ranges, tiles of C, tiles of K, tile, tile): of g^T (x - shift)
  float* shift;            // (K), a value near x's mean
  float* product;          // training: (C, K)
  float* dot;              // (C): sum of g (p - mean) / std, which is dgamma
  float* slope;            // (C), where there is `quadratic`: -a / (M std)

  // dx = g folded^T + x quadratic^T + offset. Where gradients follow the normed tensor, both products are large against
  // dx, and the second, which sums them up, must not be rounded as coarsely as dx.
  Factor folded;           // (K, C): diag(a) W, or W, transposed
  Factor quadratic;        // training: (K, K): -W^T diag(a dgamma / (M std)) W
  float* quadratic_exact;  // (quadratic_parts, K, K), shares of it before it is scaled and rounded
  float* offset;           // (K)
};

struct TailGradient {
  Tail tail;  // without y
  // The relu is of one direct source's norm alone: its mask is taken from that source, which is read anyway, and the
  // tail has none. The same operations give the same bits as in y.
  bool masks_input;
  Activations dy;
  Activations g;    // what later phases read: dy itself where nothing masks it, or where whoever reads it masks
  bool writes_g;    // in reduce: where it is an identity's gradient, or is read by many
  bool vectorised;  // dy and g can be accessed 16 bytes at once
  int leader;       // the branch whose reduction also writes g and sums it
  bool joined;      // both branches' g^T x share tiles, and are the first one's items
  bool joined_dx;   // both branches' dx share tiles in the same way
  BranchGradient branches[2];

  Work reduce;
  ApplyWork apply;
  // Of the finish phase: tiles of W Cov, tiles of shares of Q, groups of rows of diag(a) W and of Q.
  Work corrections, quadratics, foldings, roundings;
  Partition partition;
  float* partial_sum;  // (ranges, C)
  float* sum;          // (C): sum of g, which is dbeta; of this process
};

// Where processes share statistics, they add up their sums between `summarise`, which is reduce and the vectors of
// finish, and `complete`, which is the rest.
enum class GradientPhase { all, reduce, finish, apply, summarise, complete };

// Queues the phase on the stream of the current device, phases that belong together in one launch. Throws
// std::runtime_error.
void launch_backward(Math math, GradientPhase phase, const TailGradient& gradient,
                     const std::vector<device::Buffer>& buffers, device::Stream stream);

}  // namespace fused_resnet
