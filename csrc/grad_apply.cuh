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
    if (!g.vectorised) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) of(stage).copy(i, row + own_row(i), tail.rows, k);
  }

  // Masks what this thread has copied.
  DEVICE void apply(int row, int k, SharedOffset stage) const {
    if (!g.vectorised) return apply_to_elements(row, k, stage);
    device::warp_sync();
#pragma unroll 1
    for (int i = 0; i < 2; ++i)
      of(stage).apply(i, stage + row_chunk(own_row(i), device::thread_index() % Traits::row_chunks));
  }

 private:
  DEVICE StageMask<Element> of(SharedOffset stage) const { return {tail, stage + tile_rows * tile_depth_bytes}; }
  DEVICE static int own_row(int number) { return device::thread_index() / Traits::row_chunks + number * tile_rows / 2; }

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

// Steps of a product with a factor, `steps` of which are the matrix's.
template <class Products>
DEVICE int factor_steps(const Factor& factor, int steps) {
  return !Products::exact_operands && factor.remainder.data != nullptr ? 2 * steps : steps;
}

template <class Element>
DEVICE void copy_factor(const Tail& tail, const Activations& x, const Factor& factor, int columns, int row, int column,
                        int step, int steps, SharedOffset stage) {
  if (step < steps) return ProductOperands{x, factor.matrix, columns}.copy<Element>(tail, row, column, step, stage);
  ProductOperands{x, factor.remainder, columns}.copy<Element>(tail, row, column, step - steps, stage);
}

// dx of a projection.
template <class Products>
DEVICE void projection_tiles(const TailGradient& gradient, int index, TileColumn column) {
  using Element = typename Products::Element;
  const Tail& tail = gradient.tail;
  const BranchGradient& own = gradient.branches[index];
  const int inputs = own.dx.channels, channel = column.channel();
  const bool quadratic = has_quadratic(own);
  Affines::prepare(channel, inputs, [&](int of, int input) -> Affine {
    const float scale = device::global_load(own.folded.scale + input);
    if (of == 1) return {0.0f, scale, device::global_load(own.offset + input)};
    // In units of the second product, which is added to the first.
    return {0.0f, quadratic ? device::global_load(own.quadratic.scale + input) / scale : 0.0f, 0.0f};
  });  // the pipeline has a barrier ahead of who reads them
  const Activations &x = tail.branches[index].x, &g = gradient.g;
  // The steps of a factor's remainder follow those of its matrix.
  const int of_x = tiles_of(x.channels, TileTraits<Element>::depth),
            of_g = tiles_of(g.channels, TileTraits<Element>::depth);
  const int firsts = quadratic ? factor_steps<Products>(own.quadratic, of_x) : 0;
  const int steps = firsts + factor_steps<Products>(own.folded, of_g);
  const bool masks = masks_g(gradient);
  const RowMasks<Element> row_masks{tail, g};
  const auto channel_of_g = [&](int step) { return (step - firsts) % of_g * TileTraits<Element>::depth; };
  Accumulators sum;
  run_tiles(
      tail, column, steps,
      [&](int row, int step, SharedOffset stage) {
        if (step < firsts) return copy_factor<Element>(tail, x, own.quadratic, inputs, row, channel, step, of_x, stage);
        copy_factor<Element>(tail, g, own.folded, inputs, row, channel, step - firsts, of_g, stage);
        if (masks) row_masks.copy(row, channel_of_g(step), stage);
      },
      [&](int row, int step, SharedOffset stage) {
        if (masks && step >= firsts) row_masks.apply(row, channel_of_g(step), stage);
      },
      [&](int row, int step, SharedOffset stage) {
        const TilePlace place{row, tail.rows, channel};
        if (!warp_has_work(place, inputs)) return;
        if (step == 0) sum.clear();
        multiply_stage<Products>(sum, stage);
        if (step == firsts - 1) apply_affine<Element, false>(sum, 0, sum);
        if (step != steps - 1) return;
        apply_affine<Element, false>(sum, 1, sum);
        store_tile<Element>(tail, own.dx, sum, place, false);
      });
}

// A branch's columns of tiles.
DEVICE TileColumns columns_of(const Work& work, int index) {
  return index == 0 ? TileColumns{0, work.tiles_before, work.tiles}
                    : TileColumns{work.tiles_before, work.tiles, work.tiles};
}

// Calls `run(index, column)` for the columns of the branches of which `has(index)`: a loop of its own for each kind of
// work.
template <class Has, class Run>
DEVICE void for_each_column(const Work& work, Has has, Run run) {
#pragma unroll 1
  for (int index = 0; index < 2; ++index) {
    const TileColumns columns = columns_of(work, index);
    if (columns.first < columns.end && has(index))
      for_each_column(columns, [&](TileColumn column) { run(index, column); });
  }
}

// The pixels of dx that a stride passes by.
template <class Element>
DEVICE void apply_zeros(const TailGradient& gradient) {
  for_each_column(
      gradient.apply, [&](int index) { return gradient.branches[index].cell.stride > 1; },
      [&](int index, TileColumn column) { zero_tiles<Element>(gradient.tail, gradient.branches[index], column); });
}

template <class Products, bool projections>
DEVICE void grad_apply(const TailGradient& gradient) {
  using Element = typename Products::Element;
  const auto of = [&](Source source) {
    return [&gradient, source](int index) { return gradient.tail.branches[index].source == source; };
  };
  apply_zeros<Element>(gradient);
  for_each_column(gradient.apply, of(Source::direct),
                  [&](int index, TileColumn column) { direct_tiles<Element, projections>(gradient, index, column); });
  for_each_column(gradient.apply, of(Source::zero_pad),
                  [&](int index, TileColumn column) { zero_pad_tiles<Element>(gradient, index, column); });
  if constexpr (projections) {
    for_each_column(gradient.apply, of(Source::projection),
                    [&](int index, TileColumn column) { projection_tiles<Products>(gradient, index, column); });
  }
}

}  // namespace fused_resnet
