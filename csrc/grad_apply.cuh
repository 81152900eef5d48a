// The backward's last phase: gradients of the inputs, tile by tile.
//
//   direct source with a norm   dz = a (g - (sum g) / M - z^ dgamma / M)        (no sums where the norm is not trained)
//   zero padding                the channels of g that x's went to
//   projection                  dx = g folded^T + x quadratic^T + offset        (grad_matrices.cuh)
//
// Pixels of dx that a strided source does not read are written as zeros.
#pragma once

#include <grad_matrices.cuh>

namespace fused_resnet {

// Writes zeros to the pixels of dx that no row reads, a column of tiles.
template <class Element, int V, bool vectorised>
DEVICE void zero_pass(const Tail& tail, const BranchGradient& own, TileColumn tile, const Share<V, vectorised>& share,
                      int pass) {
  const int channel = tile.channel() + pass + share.column();
  if (channel >= own.dx.channels) return;
  auto* out = static_cast<Element*>(own.dx.data) + channel * own.dx.stride_c;
  const Cell& cell = own.cell;
  const int batches = tiles_of(tail.rows, share.rows());
#pragma unroll 1
  for (int number = tile.share; number < batches; number += tile.shares) {
    const int row = number * share.rows() + share.row();
    if (row >= tail.rows) continue;
    const Pixel at(tail, row);
    const int below = cell.height - static_cast<int>(at.h) * cell.stride,
              beside = cell.width - static_cast<int>(at.w) * cell.stride;
    Element* pixel = out + row_offset(tail, own.dx, row);
#pragma unroll 1
    for (int i = 0; i < cell.stride && i < below; ++i)
#pragma unroll 1
      for (int j = i == 0 ? 1 : 0; j < cell.stride && j < beside; ++j)
        store_streamed<vectorised>(pixel + i * cell.stride_h + j * cell.stride_w, own.dx, channel,
                                   Channels<Element, V>{});
  }
}

template <class Element>
DEVICE void zero_tiles(const Tail& tail, const BranchGradient& own, TileColumn tile) {
  with_share<Element>(own.vectorised, own.dx.stride_c == 1, own.dx.channels, [&](auto share) {
#pragma unroll 1
    for (int pass = 0; pass < tile_columns; pass += share.columns()) zero_pass<Element>(tail, own, tile, share, pass);
  });
}

// The affines of the normed tensor (0) and of g (1), whose sum is the gradient of the former. Where the former also
// masks, g's affine has the norm's shift, which is not added.
DEVICE Affine norm_gradient(const TailGradient& gradient, int index, int of, int channel, bool masks) {
  const Branch& branch = gradient.tail.branches[index];
  const float scale = norm_scale(branch, channel);
  if (of == 1) return {0.0f, scale, masks ? forward_affine(branch, channel).shift : 0.0f};
  if (!is_training(branch)) return {masks ? device::global_load(branch.mean + channel) : 0.0f, 0.0f, 0.0f};
  const BranchGradient& own = gradient.branches[index];
  const float per_row = -scale / static_cast<float>(gradient.tail.rows);
  const float dgamma = device::global_load(own.dot + channel);
  return {device::global_load(branch.mean + channel), per_row * inverse_std(branch, channel) * dgamma,
          per_row * shared_sum(gradient, own, channel)};
}

template <class Element, bool projections>
DEVICE void direct_tiles(const TailGradient& gradient, int index, TileColumn column) {
  const Tail& tail = gradient.tail;
  const Branch& branch = tail.branches[index];
  const bool masks = masks_input<projections>(gradient);
  Affines::prepare(column.channel(), tail.channels,
                   [&](int of, int channel) { return norm_gradient(gradient, index, of, channel, masks); });
  device::block_sync();
  const BranchGradient& own = gradient.branches[index];
  stream_tiles<Element>(tail, own.dx, {branch.x, is_training(branch) || masks, 0},
                        {gradient.g, true, 0, masks_g(gradient)}, own.vectorised, false, column, masks);
}

template <class Element>
DEVICE void zero_pad_tiles(const TailGradient& gradient, int index, TileColumn column) {
  const int before = gradient.tail.branches[index].channels_before;
  const BranchGradient& own = gradient.branches[index];
  Affines::prepare(column.channel(), own.dx.channels, [](int, int) { return Affine{0.0f, 1.0f, 0.0f}; });
  device::block_sync();
  stream_tiles<Element>(gradient.tail, own.dx, {gradient.g, true, -before, masks_g(gradient)}, {gradient.g, false, 0},
                        own.vectorised, false, column);
}

// The masks of the rows that a stage's first operand has of g, from channel k on; behind that operand.
template <class Element>
struct RowMasks {
  using Traits = TileTraits<Element>;
  static_assert(Traits::row_chunks == 4, "neighbours' chunks");
  static_assert(tile_rows * tile_depth_bytes + stage_mask_bytes <= operand_bytes);

  const Tail& tail;
  const Activations& g;

  // Starts the copies that go with those of g (`copy_rows`).
  DEVICE void copy(int row, int k, SharedOffset stage) const {
    if (!g.vectorised || !StageMask<Element>::copies()) return;
    const auto [thread, number] = StageMask<Element>::four();
    const int own = row + row_of(thread, number);
    const bool exists = own < tail.rows;
    of(stage).copy(exists ? mask_place<Element>(tail.mask, own, k) : tail.mask.bytes,
                   exists ? StageMask<Element>::existing(tail, k) : 0);
  }

  // Masks what this thread has copied, of channels from `k()` on.
  template <class First>
  DEVICE void apply(int row, First k, SharedOffset stage) const {
    if (!g.vectorised) return apply_to_elements(row, k(), stage);
    device::warp_sync();
#pragma unroll
    for (int i = 0; i < 2; ++i)
      of(stage).apply(
          i, stage + row_chunk(row_of(device::thread_index(), i), device::thread_index() % Traits::row_chunks));
  }

 private:
  DEVICE static StageMask<Element> of(SharedOffset stage) { return {stage + tile_rows * tile_depth_bytes}; }
  DEVICE static int row_of(int thread, int number) { return thread / Traits::row_chunks + number * tile_rows / 2; }

  DEVICE void apply_to_elements(int row, int k, SharedOffset stage) const {
    const HalfRow<Element> own(g.stride_c);
    if (row + own.row >= tail.rows) return;
#pragma unroll 1
    for (int i = 0; i < HalfRow<Element>::elements && k + own.first + i < tail.channels; ++i) {
      const int channel = k + own.first + i;
      const SharedOffset at = stage + row_element<Element>(own.row, own.first + i);
      const unsigned bits = device::global_load(mask_place<Element>(tail.mask, row + own.row, channel));
      device::shared_store(at, masked(device::shared_load<Element>(at), bits, channel % Traits::vector));
    }
  }
};

// The steps of a branch's tile of dx: of the first branch's Q, of both, and all.
template <class Products>
StepCounts gradient_steps(const TailGradient& gradient, int slots, int branch) {
  const auto steps = [](const Factor& factor, int channels) {
    const bool twice = !Products::exact_operands && factor.remainder.data != nullptr;
    return (twice ? 2 : 1) * product_steps<typename Products::Element>(channels);
  };
  const auto of_quadratic = [&](int i) {
    const bool takes_part = (i == branch || gradient.joined_dx) && has_quadratic(gradient.branches[i]);
    return takes_part ? steps(gradient.branches[i].quadratic, gradient.tail.branches[i].x.channels) : 0;
  };
  const int first = of_quadratic(0), products = first + of_quadratic(1);
  return {slots, first, products, products + steps(gradient.branches[branch].folded, gradient.g.channels)};
}

// Copies 64 bytes of each of up to 64 rows of two matrices, from element k on: to the first half of an operand's rows
// and to the second. What does not exist becomes zeros.
template <class Element>
DEVICE void copy_matrices(const Matrix (&matrices)[2], const int (&rows)[2], int depth, int k, SharedOffset to) {
  using Traits = TileTraits<Element>;
  const int row = device::thread_index() / Traits::row_chunks, chunk = device::thread_index() % Traits::row_chunks;
  const int column = k + chunk * Traits::vector;
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const auto* data = static_cast<const Element*>(matrices[i].data);
    device::copy_async_16(to + row_chunk(row, chunk) + i * narrow * 64,
                          data + static_cast<unsigned>(row) * matrices[i].stride_c + column,
                          row < rows[i] && column < depth);
  }
}

// The steps of a tile of dx: products of x with Q, of both branches where they share the tile, then of g. The steps of
// a factor's remainder follow those of its matrix.
template <class Products>
class GradientSteps {
 public:
  using Element = typename Products::Element;

  const StepCounts& count;

  DEVICE GradientSteps(const TailGradient& of, const StepCounts& steps, int branch)
      : count(steps), gradient_(of), index_(branch) {}

  // Masks what this thread has copied.
  DEVICE void mask(int row, int step, SharedOffset stage) const {
    if (step < count.products || !masks_g(gradient_)) return;
    int part = 0;
    for_each_stage(stage, [&](SharedOffset of) {
      row_masks().apply(row, [&] { return (step - count.products) % of_g() * depth + part * half_depth; }, of);
      ++part;
    });
  }

  // Starts the copies of the next step, which is this one; the tile begins at (row, channel).
  DEVICE void copy(int row, int channel, int step, SharedOffset stage) {
    if (step == 0 || step == until_) begin(row, channel, step);
    if (step >= count.products && masks_g(gradient_)) {
      int k = (of_g() - (until_ - step)) * depth;
      for_each_stage(stage, [&](SharedOffset to) {
        row_masks().copy(row, k, to);
        k += half_depth;
      });
    }
    if (stages_.begun()) return stages_.copy(stage);
    const Part part = part_of(step);
    int k = (part.steps - (until_ - step)) * depth;
    for_each_stage(stage, [&](SharedOffset to) {
      copy(part, row, channel, k, to);
      k += half_depth;
    });
  }

 private:
  static constexpr int depth = step_depth<Element>, half_depth = TileTraits<Element>::depth;

  // Successive steps: of a branch's input with its Q, or of g; so many, with a factor's matrix or its remainder.
  struct Part {
    const Activations& from;
    int of, steps;
    bool of_input, remainder;
  };

  DEVICE RowMasks<Element> row_masks() const { return {gradient_.tail, gradient_.g}; }
  DEVICE const BranchGradient& own(int i) const { return gradient_.branches[i]; }
  DEVICE const Activations& x(int i) const { return gradient_.tail.branches[i].x; }
  DEVICE int of_x(int i) const { return tiles_of(x(i).channels, depth); }
  DEVICE int of_g() const { return tiles_of(gradient_.g.channels, depth); }

  DEVICE Part part_of(int step) const {
    const bool of_input = step < count.products;
    const int of = of_input ? step >= count.first : index_;
    const int own_step = !of_input ? step - count.products : of == 1 ? step - count.first : step;
    const int steps = of_input ? of_x(of) : of_g();
    return {of_input ? x(of) : gradient_.g, of, steps, of_input, own_step >= steps};
  }
  DEVICE const Matrix& matrix(const Part& part, int i) const {
    const Factor& factor = part.of_input ? own(i).quadratic : own(i).folded;
    return part.remainder ? factor.remainder : factor.matrix;
  }
  // Of those that lie side by side. Of an input's, only one is there.
  DEVICE const Matrix& side(const Part& part, int i) const { return matrix(part, part.of_input ? part.of : i); }
  // The rows of a branch's matrix where both branches' lie side by side: none where only the other's input is
  // multiplied.
  DEVICE int rows_of(const Part& part, int i) const { return part.of_input && part.of != i ? 0 : own(i).dx.channels; }

  // Starts the copies of a stage, whatever the layout.
  DEVICE void copy(const Part& part, int row, int channel, int k, SharedOffset stage) const {
    copy_pixel_rows<Element>(gradient_.tail, part.from, row, k, stage);
    if (!gradient_.joined_dx)
      return copy_matrix_rows<Element>(matrix(part, part.of), own(part.of).dx.channels, part.from.channels, channel, k,
                                       stage + operand_bytes);
    const int rows[2] = {rows_of(part, 0), rows_of(part, 1)};
    const Matrix matrices[2] = {side(part, 0), side(part, 1)};
    copy_matrices<Element>(matrices, rows, part.from.channels, k, stage + operand_bytes);
  }

  // Begins with the part whose first step this is.
  DEVICE void begin(int row, int channel, int step) {
    using Stages = RowStages<Element>;
    const Part part = part_of(step);
    until_ = step + part.steps;
    const bool joined = gradient_.joined_dx;
    if (!part.from.vectorised || !matrix(part, part.of).vectorised || part.from.channels % depth != 0)
      return stages_.leave();
    const auto of_pixels = [&](int own_row) {
      return OperandRow<Element>{row_pointer<Element>(gradient_.tail, part.from, row + own_row),
                                 own_row < gradient_.tail.rows - row};
    };
    const auto of_matrix = [&](int half, int own_row) {
      if (joined)
        return OperandRow<Element>{matrix_row<Element>(side(part, half), own_row), own_row < rows_of(part, half)};
      const int further = half * Stages::half + own_row;
      return OperandRow<Element>{matrix_row<Element>(matrix(part, part.of), channel + further),
                                 further < own(part.of).dx.channels - channel};
    };
    stages_.begin(of_pixels, of_matrix);
  }

  const TailGradient& gradient_;
  int index_;
  int until_ = 0;  // the step that has other factors
  RowStages<Element> stages_;
};

// The affines of a projection's two products.
DEVICE Affine factor_affine(const BranchGradient& own, int of, int input) {
  if (input >= own.dx.channels) return {0.0f, 0.0f, 0.0f};
  const float scale = device::global_load(own.folded.scale + input);
  if (of == 1) return {0.0f, scale, device::global_load(own.offset + input)};
  // In units of the second product, which is added to the first.
  return {0.0f, has_quadratic(own) ? device::global_load(own.quadratic.scale + input) / scale : 0.0f, 0.0f};
}

// dx of a projection or, side by side in a tile, of both.
template <class Products>
DEVICE void projection_tiles(const TailGradient& gradient, const StepCounts& count, int index, TileColumn column) {
  using Element = typename Products::Element;
  const Tail& tail = gradient.tail;
  const bool joined = gradient.joined_dx;
  const int channel = column.channel();
  Affines::prepare(channel, joined ? tile_columns : gradient.branches[index].dx.channels, [&](int of, int input) {
    return joined ? factor_affine(gradient.branches[input / narrow], of, input % narrow)
                  : factor_affine(gradient.branches[index], of, input);
  });  // the pipeline has a barrier ahead of who reads them
  GradientSteps<Products> steps(gradient, count, index);
  // The warp's branch, the end of its steps ahead of those of g, and how far its channels lie from the tile's columns.
  const int mine = joined ? warp_tile().column / narrow : index;
  const int& end = mine == 1 ? count.products : count.first;
  const int first_channel = joined ? -mine * narrow : channel;
  const Pieces<Element> pieces(warp_tile());
  Accumulators sum;
  run_tiles(
      tail, column, count, [&](int row, int step, SharedOffset stage) { steps.copy(row, channel, step, stage); },
      [&](int row, int step, SharedOffset stage) { steps.mask(row, step, stage); },
      [&](int row, int step, SharedOffset stage) {
        const BranchGradient& own = gradient.branches[mine];
        const TilePlace place{row, first_channel};
        if (!warp_has_work(tail, place, own.dx.channels)) return;
        if (step == 0) start(sum);
        if (step >= count.products || (step >= count.first) == (mine == 1)) multiply_step<Products>(sum, stage, pieces);
        if (step == end - 1) apply_affine<Element>(sum, 0);
        if (step != count.all - 1) return;
        apply_affine<Element>(sum, 1);
        store_tile<Element>(tail, own.dx, sum, place, false);
      });
}

// Calls `run(index, column)` for the columns of a pass. Passes have loops of their own: in one for several, what does
// not change would be computed ahead of it for all of them, and would take their registers.
template <class Run>
DEVICE void for_each_column(const Work& work, Run run) {
  if (work.tiles == 0) return;
  for_each_column(work.tiles, [&](TileColumn column) {
    const int index = column.column < work.tiles_before ? 0 : 1;
    if (index == 1) column.column -= work.tiles_before;
    run(index, column);
  });
}

template <class Products, bool projections>
DEVICE void grad_apply(const TailGradient& gradient, const StepCounts (&steps)[2]) {
  using Element = typename Products::Element;
  const ApplyWork& work = gradient.apply;
  for_each_column(work.zeros, [&](int index, TileColumn column) {
    zero_tiles<Element>(gradient.tail, gradient.branches[index], column);
  });
  for_each_column(work.direct,
                  [&](int index, TileColumn column) { direct_tiles<Element, projections>(gradient, index, column); });
  for_each_column(work.zero_padded,
                  [&](int index, TileColumn column) { zero_pad_tiles<Element>(gradient, index, column); });
  if constexpr (projections) {
    for_each_column(work.projections, [&](int index, TileColumn column) {
      projection_tiles<Products>(gradient, steps[index], index, column);
    });
  }
}

}  // namespace fused_resnet
