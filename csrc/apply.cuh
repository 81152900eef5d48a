// The phase that writes y, tile by tile: products into accumulators, norms, the other sources, relu.
//
// Neighbouring blocks take neighbouring column tiles of the same rows, so that these come from memory once and from the
// L2 cache after that. `products` is the number of branches that are multiplied here: 0, 1 or 2; they come first.
#pragma once

#include <epilogue.cuh>
#include <products.cuh>

namespace fused_resnet {

DEVICE bool warp_has_work(const Tail& tail, TilePlace place) {
  const WarpTile tile = warp_tile();
  return place.row + tile.row < place.end && place.channel + tile.column < tail.channels;
}

// Adds x W^T for the tile.
template <class Products>
DEVICE void multiply_tile(const Tail& tail, const Branch& branch, TilePlace place, Accumulators& sum) {
  using Element = typename Products::Element;
  constexpr int depth = TileTraits<Element>::depth;
  const auto a = input_rows<Element>(tail, branch.x, place.row);
  const auto b = weight_rows<Element>(tail, branch, place.channel);
  const WarpTile tile = warp_tile();
  const bool work = warp_has_work(tail, place);
  pipeline((branch.x.channels + depth - 1) / depth,
           [&](int step, SharedOffset stage) {
             a.copy(step * depth, stage);
             b.copy(step * depth, stage + operand_bytes);
           },
           [&](int, SharedOffset stage) {
             if (work) Products::multiply(sum, stage, stage + operand_bytes, tile);
           });
}

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

// The sum of the tile's products, norms applied.
template <class Products, int products>
DEVICE void sum_products(const Tail& tail, TilePlace place, Accumulators& sum) {
  sum.clear();
  if constexpr (products == 0) {
    device::block_sync();
  } else if constexpr (products == 1) {
    multiply_tile<Products>(tail, tail.branches[0], place, sum);
    if (warp_has_work(tail, place)) apply_affine<false>(sum, 0, sum);
  } else {
#pragma unroll 1
    for (int index = 0; index < 2; ++index) {
      Accumulators product;
      product.clear();
      multiply_tile<Products>(tail, tail.branches[index], place, product);
      if (warp_has_work(tail, place)) apply_affine<true>(product, index, sum);
    }
  }
}

template <class Products, int products>
DEVICE void apply_tile(const Tail& tail, TilePlace place) {
  using Element = typename Products::Element;
  Affines::prepare<Element>(tail, place.channel);
  Accumulators sum;
  sum_products<Products, products>(tail, place, sum);  // has a barrier: the affines are complete
  store_tile<Element>(tail, tail.y, tail.vectorised, sum, place, Ending<products>{tail.relu});
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
