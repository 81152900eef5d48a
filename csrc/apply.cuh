// The phase that writes y, tile by tile: products into accumulators, norms, the other sources, relu.
//
// Neighbouring blocks take neighbouring column tiles of the same rows, so that these come from memory once and from the
// L2 cache after that. `products` is the number of branches that are multiplied here: 0, 1 or 2; they come first.
#pragma once

#include <epilogue.cuh>
#include <mainloop.cuh>

namespace fused_resnet {

// sum += affine(product) for the tile. Both may be the same accumulators, if these take the place of the sum.
template <bool add>
DEVICE void apply_affine(const Accumulators& product, int index, Accumulators& sum) {
  const WarpTile tile = warp_tile();
  const Lane lane;
#pragma unroll
  for (int n = 0; n < fragment_columns; ++n) {
    Affine affines[2];
    Affines::load(index, tile.column + n * 8 + 2 * lane.t, affines);
#pragma unroll
    for (int odd = 0; odd < 2; ++odd) {
#pragma unroll
      for (int m = 0; m < fragment_rows; ++m)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const float value = affines[odd](product.values[m][n][2 * half + odd]);
          float& to = sum.values[m][n][2 * half + odd];
          to = add ? to + value : value;
        }
    }
  }
}

template <class Element>
DEVICE float projection_bias(const Branch& branch, int channel) {
  return branch.bias == nullptr
             ? 0.0f
             : device::to_float(device::global_load(static_cast<const Element*>(branch.bias) + channel));
}

// The branch's norm, or its projection's bias.
template <class Element>
DEVICE Affine affine(const Branch& branch, int channel) {
  if (branch.source == Source::none) return {0.0f, 0.0f, 0.0f};
  if (branch.statistics == Statistics::none) return {0.0f, 1.0f, projection_bias<Element>(branch, channel)};
  const Norm& norm = branch.norm;
  float mean, var;
  if (branch.statistics == Statistics::running) {
    mean = vector_element(norm.running_mean, norm.type, channel, 0.0f) - projection_bias<Element>(branch, channel);
    var = vector_element(norm.running_var, norm.type, channel, 1.0f);
  } else {
    mean = device::global_load(branch.mean + channel);
    var = device::global_load(branch.var + channel);
  }
  return {mean, norm_scale(norm, channel, var), vector_element(norm.bias, norm.type, channel, 0.0f)};
}

// The running statistics as this call took them, for backward: once, by the blocks of the first row of tiles.
template <class Element>
DEVICE void keep_running_statistics(const Branch& branch, int channel) {
  const Norm& norm = branch.norm;
  device::global_store(branch.mean + channel, vector_element(norm.running_mean, norm.type, channel, 0.0f) -
                                                  projection_bias<Element>(branch, channel));
  device::global_store(branch.var + channel, vector_element(norm.running_var, norm.type, channel, 1.0f));
}

template <class Element>
DEVICE void prepare_affines(const Tail& tail, TilePlace place) {
  Affines::prepare(place.channel, tail.channels, [&](int index, int channel) {
    const Branch& branch = tail.branches[index];
    if (place.row == 0 && branch.statistics == Statistics::running && branch.mean != nullptr)
      keep_running_statistics<Element>(branch, channel);
    return affine<Element>(branch, channel);
  });
}

// The sum of the tile's products, norms applied.
template <class Products, int products>
DEVICE void sum_products(const Tail& tail, TilePlace place, Accumulators& sum) {
  sum.clear();
  if constexpr (products == 0) {
    device::block_sync();
  } else if constexpr (products == 1) {
    multiply_weight<Products>(tail, tail.branches[0], place, sum);
    if (warp_has_work(place, tail.channels)) apply_affine<false>(sum, 0, sum);
  } else {
#pragma unroll 1
    for (int index = 0; index < 2; ++index) {
      Accumulators product;
      product.clear();
      multiply_weight<Products>(tail, tail.branches[index], place, product);
      if (warp_has_work(place, tail.channels)) apply_affine<true>(product, index, sum);
    }
  }
}

DEVICE Addend addend_of(const Branch& branch) {
  return {branch.statistics == Statistics::product ? branch.materialised : branch.x, branch.source != Source::none,
          branch.statistics != Statistics::none, branch.channels_before};
}

template <class Products, int products>
DEVICE void apply_tile(const Tail& tail, TilePlace place) {
  using Element = typename Products::Element;
  prepare_affines<Element>(tail, place);
  Accumulators sum;
  sum_products<Products, products>(tail, place, sum);  // has a barrier: the affines are complete
  const Ending<products> ending{{addend_of(tail.branches[0]), addend_of(tail.branches[1])}, tail.relu};
  store_tile<Element>(tail, Output{tail.y, tail.vectorised}, sum, place, ending);
}

template <class Products, int products>
DEVICE void apply(const Tail& tail) {
  const int columns = tiles_of(tail.channels, tile_columns);
  for (int item = device::block_index(); item < apply_items(tail); item += device::grid_size()) {
    device::block_sync();  // the last tile's affines and slabs have been read
    const int row = item / columns;
    apply_tile<Products, products>(tail, {row * tile_rows, tail.rows, (item - row * columns) * tile_columns});
  }
}

}  // namespace fused_resnet
