// The launch interface: what a residual tail is to the kernels. Plain data, no torch.
//
//     y = relu?( norm(source(a)) + norm(source(b)) )
//
// The output has `rows` pixels of `channels` channels; row r is pixel (n, h, w) with r = (n height + h) width + w. The
// words and the mathematics are those of docs/design.md.
#pragma once

#include <cstdint>
#include <vector>

#include <device/launch.h>

namespace fused_resnet {

enum class ElementType { float32, bfloat16, float16 };

// The type of all activations and weights, and how products are computed; sums are always float32.
enum class Math { float32, tf32, bfloat16, float16 };

enum class Source { none, direct, zero_pad, projection };

// Where a branch's mean and variance come from.
enum class Statistics {
  none,     // no norm
  running,  // the running statistics
  columns,  // sums over the columns of a direct source
  gram,     // x^T x of a projection's input: p = x W^T is never written
};

// n / divisor of n below 2^31, without a division (Granlund and Montgomery, 1994, figure 4.1).
struct Divider {
  std::uint32_t divisor, multiplier, shift;
};

// The pixels that a branch reads (or writes), in units of elements. Strides along h and w include the branch's stride.
struct Activations {
  void* data;
  std::int64_t stride_n, stride_c, stride_h, stride_w;
  int channels;
  bool dense;       // row r begins at r * stride_w
  bool vectorised;  // 16 bytes along the channels can be accessed at once
};

// Where y lets a gradient through its relu: a byte for each 16 bytes of a row's channels, whose lowest bit is the first
// channel's. Rows are `pitch` bytes apart, a multiple of 4.
struct Mask {
  std::uint8_t* bytes;  // null where nobody keeps it
  int pitch;
};

// (C, K), in units of elements.
struct Matrix {
  void* data;
  std::int64_t stride_c, stride_k;
  bool vectorised;  // 16 bytes along K can be accessed at once
};

// A batch norm; vectors are (C) and all of one type, absent ones null.
struct Norm {
  const void* weight;
  const void* bias;
  void* running_mean;
  void* running_var;
  std::int64_t* num_batches_tracked;  // one is added to it in training
  ElementType type;
  float momentum;
  bool cumulative;  // 1 / num_batches_tracked in place of the momentum
  float eps;
};

// Rows are summed in ranges whose number depends on the sizes alone: results are the same for any grid.
struct Partition {
  int rows;  // of each range but the last, a multiple of the tile's rows
  int ranges;
};

struct Branch {
  Source source;
  Activations x;
  int channels_before;  // zero channels ahead of a zero-padded source's own
  Matrix weight;
  const void* bias;  // of a projection, (C) or null
  Statistics statistics;
  Norm norm;

  // Results of training statistics, and copies of running ones where these are to be kept. `mean` is that of the branch
  // without the projection's bias.
  float* mean;  // (C)
  float* var;   // (C), biased
  float* mu;    // gram: (K), mean of x
  float* cov;   // gram: (K, K), covariance of x

  // Workspace.
  Partition partition;
  float* momentum;            // weight of this batch in the running statistics
  float* partial_mean;        // columns: (ranges, C)
  float* partial_m2;          // columns: (ranges, C), sum of squared distances from the partial mean
  float* partial_gram;        // gram: (ranges, pairs of tiles, tile, tile), of x - shift
  float* partial_sum;         // gram: (ranges, K), of x - shift
  float* shift;               // gram: (K), a value near the mean
  float* partial_statistics;  // gram of many inputs: (parts, 2, C), of mean and var
};

struct Tail {
  // Projections come first.
  Branch branches[2];
  Activations y;
  int rows, height, width, channels;
  Divider by_width, by_height;
  bool relu;
  Mask mask;        // of the relu: written in forward, read in backward
  bool vectorised;  // y and whatever is added to it can be accessed 16 bytes at once
};

// The items of one pass: every part (a range of rows, or 128 of them) has so many tiles, the first branch's ahead of
// the second's. Computed by the host: the kernels find them in constant memory, and need no registers for them.
struct Work {
  int tiles_before, tiles, items;
};

// `summarise`: moments and finish.
enum class Phase { all, moments, finish, apply, summarise };

// Queues the phase on the stream of the current device, phases that belong together in one launch. Throws
// std::runtime_error.
void launch_forward(Math math, Phase phase, const Tail& tail, const std::vector<device::Buffer>& buffers,
                    device::Stream stream);

}  // namespace fused_resnet
