// From operands in memory to accumulators.
//
// What is written where y, p, dp and dx are asks for `Mainloop<Products>::multiply` alone. GPUs whose tensor cores want
// their operands brought in another way (wgmma, TMA) get a type of products of their own, a specialisation of
// `Mainloop` beside it, and a line in dispatch.h.
#pragma once

#include <products.cuh>

namespace fused_resnet {

template <class Products>
struct Mainloop {
  using Element = typename Products::Element;

  // Adds x b^T for the tile; b has `columns` rows, along which lie x's channels. The stages are free afterwards.
  DEVICE static void multiply(const Tail& tail, const Activations& x, const Matrix& matrix, int columns,
                              TilePlace place, Accumulators& sum) {
    constexpr int depth = TileTraits<Element>::depth;
    const auto a = input_rows<Element>(tail, x, place.row);
    const auto b = matrix_rows<Element>(matrix, columns, x.channels, place.channel);
    const WarpTile tile = warp_tile();
    const bool work = warp_has_work(place, columns);
    pipeline((x.channels + depth - 1) / depth,
             [&](int step, SharedOffset stage) {
               a.copy(step * depth, stage);
               b.copy(step * depth, stage + operand_bytes);
             },
             [&](int, SharedOffset stage) {
               if (work) Products::multiply(sum, stage, stage + operand_bytes, tile);
             });
  }
};

// Adds x W^T for the tile.
template <class Products>
DEVICE void multiply_weight(const Tail& tail, const Branch& branch, TilePlace place, Accumulators& sum) {
  Mainloop<Products>::multiply(tail, branch.x, branch.weight, tail.channels, place, sum);
}

}  // namespace fused_resnet
