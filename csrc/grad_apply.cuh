// The backward's last phase: gradients of the inputs, tile by tile.
//
//   direct source with a norm   dz = a (g - (sum g) / M - z^ dgamma / M)        (no sums where the norm is not trained)
//   zero padding                the channels of g that x's went to
//   projection                  dx = g folded^T + x quadratic^T + offset        (grad_finish.cuh)
//
// Where a projection's pre-norm tensor is computed again, its gradient dp takes dz's formula with p = x W^T from the
// accumulators; it is written, and behind a barrier dW = dp^T x and dx = dp W follow. Pixels of dx that a strided
// source does not read are written as zeros with their neighbours.
#pragma once

#include <grad_finish.cuh>

namespace fused_resnet {

// Where dx goes. The pixels that belong to a row's cell are written with it.
struct InputGradient {
  const Activations& out;
  bool vectorised;  // and all addends with it
  const Cell& cell;

  template <class Values, class Element>
  DEVICE void surround(const Tail& tail, Element* pixel, int row) const {
    if (cell.stride == 1) return;
    const unsigned line = static_cast<unsigned>(row) / tail.width;
    const int w = static_cast<int>(row - line * tail.width), h = static_cast<int>(line % tail.height);
    const int below = cell.height - h * cell.stride, beside = cell.width - w * cell.stride;
#pragma unroll 1
    for (int i = 0; i < cell.stride && i < below; ++i)
#pragma unroll 1
      for (int j = i == 0 ? 1 : 0; j < cell.stride && j < beside; ++j)
        device::global_store(reinterpret_cast<Values*>(pixel + i * cell.stride_h + j * cell.stride_w), Values{});
  }
};

DEVICE InputGradient input_gradient(const BranchGradient& own) { return {own.dx, own.vectorised, own.cell}; }

// What becomes of the normed tensor (0) and of g (1) in the gradient of the former.
DEVICE Affine norm_gradient(const TailGradient& gradient, int index, int of, int channel) {
  const Branch& branch = gradient.tail.branches[index];
  const float scale = norm_scale(branch, channel);
  if (of == 1) return {0.0f, scale, 0.0f};
  if (!is_training(branch)) return {0.0f, 0.0f, 0.0f};
  const BranchGradient& own = gradient.branches[index];
  const float per_row = -scale / static_cast<float>(gradient.tail.rows);
  const float dgamma = device::global_load(own.dot + channel);
  return {device::global_load(branch.mean + channel), per_row * inverse_std(branch, channel) * dgamma,
          per_row * shared_sum(gradient, own, channel)};
}

template <class Element>
DEVICE void direct_tile(const TailGradient& gradient, int index, TilePlace place) {
  const Branch& branch = gradient.tail.branches[index];
  Affines::prepare(place.channel, gradient.tail.channels,
                   [&](int of, int channel) { return norm_gradient(gradient, index, of, channel); });
  device::block_sync();
  const Addend z{branch.x, is_training(branch), true, 0}, g{gradient.g, true, true, 0};
  const Ending<0> ending{{z, g}, false};
  store_tile<Element>(gradient.tail, input_gradient(gradient.branches[index]), Accumulators{}, place, ending);
}

template <class Element>
DEVICE void zero_pad_tile(const TailGradient& gradient, int index, TilePlace place) {
  const int before = gradient.tail.branches[index].channels_before;
  const Ending<0> ending{{{gradient.g, true, false, -before}, nothing(gradient.g)}, false};
  store_tile<Element>(gradient.tail, input_gradient(gradient.branches[index]), Accumulators{}, place, ending);
}

// Adds x factor^T, not scaled.
template <class Products>
DEVICE void multiply_factor(const Tail& tail, const Activations& x, const Factor& factor, int columns, TilePlace place,
                            Accumulators& sum) {
  Mainloop<Products>::multiply(tail, x, factor.matrix, columns, place, sum);
  if constexpr (!Products::exact_operands)
    if (factor.remainder.data != nullptr) Mainloop<Products>::multiply(tail, x, factor.remainder, columns, place, sum);
}

// dx of a projection, from g; or from dp, which leaves nothing to correct.
template <class Products, bool recomputed>
DEVICE void projection_tile(const TailGradient& gradient, int index, TilePlace place) {
  const Tail& tail = gradient.tail;
  const BranchGradient& own = gradient.branches[index];
  const int inputs = own.dx.channels;
  const bool quadratic = !recomputed && has_quadratic(own);
  Affines::prepare(place.channel, inputs, [&](int of, int channel) -> Affine {
    const float scale = device::global_load(own.folded.scale + channel);
    if (of == 1) return {0.0f, scale, device::global_load(own.offset + channel)};
    // In units of the second product, which is added to the first.
    return {0.0f, quadratic ? device::global_load(own.quadratic.scale + channel) / scale : 0.0f, 0.0f};
  });
  Accumulators sum;
  sum.clear();
  if (quadratic) {
    multiply_factor<Products>(tail, tail.branches[index].x, own.quadratic, inputs, place, sum);
    apply_affine<false>(sum, 0, sum);
  }
  multiply_factor<Products>(tail, recomputed ? own.dp : gradient.g, own.folded, inputs, place, sum);
  apply_affine<false>(sum, 1, sum);
  store_tile<typename Products::Element>(tail, input_gradient(own), sum, place,
                                         Ending<2>{{nothing(own.dx), nothing(own.dx)}, false});
}

// The gradient of a pre-norm tensor that is computed again.
template <class Products>
DEVICE void recomputed_tile(const TailGradient& gradient, int index, TilePlace place) {
  const Tail& tail = gradient.tail;
  Affines::prepare(place.channel, tail.channels,
                   [&](int of, int channel) { return norm_gradient(gradient, index, of, channel); });
  Accumulators sum;
  sum.clear();
  multiply_weight<Products>(tail, tail.branches[index], place, sum);
  apply_affine<false>(sum, 0, sum);
  const Activations& dp = gradient.branches[index].dp;
  const Ending<1> ending{{nothing(dp), {gradient.g, true, true, 0}}, false};
  store_tile<typename Products::Element>(tail, Output{dp, dp.vectorised && gradient.g.vectorised}, sum, place, ending);
}

template <class Products, bool projections>
DEVICE void apply_gradient_tile(const TailGradient& gradient, int index, TilePlace place) {
  using Element = typename Products::Element;
  const Source source = gradient.tail.branches[index].source;
  if constexpr (projections)
    if (source == Source::projection) {
      if (is_recomputed(gradient.branches[index])) return recomputed_tile<Products>(gradient, index, place);
      return projection_tile<Products, false>(gradient, index, place);
    }
  if (source == Source::zero_pad) return zero_pad_tile<Element>(gradient, index, place);
  direct_tile<Element>(gradient, index, place);
}

// Calls `write(index, place)` for the tiles that are the block's.
template <class Write>
DEVICE void for_each_tile(const Tail& tail, const Work& work, Write write) {
  for_each_item(work, [&](int index, int row, int tile) {
    device::block_sync();  // the last tile's affines and slabs have been read
    write(index, TilePlace{row * tile_rows, tail.rows, tile * tile_columns});
  });
}

// dp^T (x - shift): where dp's columns sum to zero, the same as dp^T x.
template <class Products>
DEVICE void reduce_recomputed(const TailGradient& gradient) {
  using Element = typename Products::Element;
  for_each_item(gradient.recomputed_products, [&](int index, int range, int tile) {
    const Activations& dp = gradient.branches[index].dp;
    const Incoming<Element, false> incoming{gradient, dp, false};
    product_item<Products>(gradient, incoming, false, index, RowRange(gradient.tail, gradient.product_partition, range),
                           range, tile);
  });
}

template <class Products>
DEVICE void finish_recomputed(const TailGradient& gradient) {
  const int groups = tiles_of(gradient.tail.channels, channel_group);
#pragma unroll 1
  for (int item = device::block_index(); item < 2 * groups; item += device::grid_size()) {
    const int index = item / groups, channel = (item - index * groups) * channel_group + device::warp_index();
    const Branch& branch = gradient.tail.branches[index];
    const BranchGradient& own = gradient.branches[index];
    if (!is_recomputed(own) || own.dweight.data == nullptr || channel >= gradient.tail.channels) continue;
    // Over all processes, dp's columns sum to zero, but not over this one's rows.
    const bool shared = own.own_mean != nullptr;
    const double sum = shared ? norm_scale(branch, channel) * surplus(gradient, index, channel) : 0.0;
#pragma unroll 1
    for (int input = device::lane_index(); input < branch.x.channels; input += device::warp_size) {
      double product = sum_of_products(gradient, index, gradient.product_partition, channel, input);
      if (shared) product += sum * device::global_load(own.shift + input);
      store_element<typename Products::Element>(own.dweight, channel, input, static_cast<float>(product));
    }
  }
}

template <class Products, bool projections>
DEVICE void grad_apply(const TailGradient& gradient) {
  for_each_tile(gradient.tail, gradient.apply, [&](int index, TilePlace place) {
    apply_gradient_tile<Products, projections>(gradient, index, place);
  });
  if constexpr (projections) {
    if (!is_recomputed(gradient.branches[0]) && !is_recomputed(gradient.branches[1])) return;
    device::grid_sync();
    reduce_recomputed<Products>(gradient);
    for_each_tile(gradient.tail, gradient.recomputed_inputs,
                  [&](int index, TilePlace place) { projection_tile<Products, true>(gradient, index, place); });
    device::grid_sync();
    finish_recomputed<Products>(gradient);
  }
}

}  // namespace fused_resnet
