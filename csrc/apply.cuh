// The phase that writes y: products into accumulators, norms, the other source, relu. Where no branch is multiplied, y
// is streamed (stream.cuh). `products` is the number of branches that are multiplied here: 0, 1 or 2; they come first.
#pragma once

#include <epilogue.cuh>
#include <mainloop.cuh>
#include <stream.cuh>

namespace fused_resnet {

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
DEVICE void prepare_affines(const Tail& tail, TileColumn column) {
  Affines::prepare(column.channel(), tail.channels, [&](int index, int channel) {
    const Branch& branch = tail.branches[index];
    if (column.share == 0 && branch.statistics == Statistics::running && branch.mean != nullptr)
      keep_running_statistics<Element>(branch, channel);
    return affine<Element>(branch, channel);
  });
}

// One product, and what the other branch adds to it.
template <class Products>
DEVICE void apply_product(const Tail& tail, TileColumn column) {
  using Element = typename Products::Element;
  const Branch& other = tail.branches[1];
  const auto product = weight_product(tail, tail.branches[0]);
  const Addend<Element> addend{other.x, other.channels_before};
  const int products = product.steps<Element>();
  const int steps = products + (other.source != Source::none ? addend.steps : 0);
  Accumulators sum;
  run_tiles(
      tail, column, steps,
      [&](int row, int step, SharedOffset stage) {
        if (step < products) return product.copy<Element>(tail, row, column.channel(), step, stage);
        addend.copy(tail, row, column.channel(), step - products, stage);
      },
      [&](int row, int step, SharedOffset stage) {
        const TilePlace place{row, tail.rows, column.channel()};
        if (!warp_has_work(place, tail.channels)) return;
        if (step == 0) sum.clear();
        if (step < products) multiply_stage<Products>(sum, stage);
        if (step == products - 1) apply_affine<Element, false>(sum, 0, sum);
        if (step >= products) addend.add(step - products, 1, column.channel(), stage, sum);
        if (step == steps - 1) store_tile<Element>(tail, tail.y, sum, place, tail.relu);
      });
}

// The sum of two products.
template <class Products>
DEVICE void apply_products(const Tail& tail, TileColumn column) {
  using Element = typename Products::Element;
  const int channel = column.channel();
  const auto first = weight_product(tail, tail.branches[0]), second = weight_product(tail, tail.branches[1]);
  const int firsts = first.steps<Element>(), steps = firsts + second.steps<Element>();
  Accumulators sum, product;
  run_tiles(
      tail, column, steps,
      [&](int row, int step, SharedOffset stage) {
        if (step < firsts) return first.copy<Element>(tail, row, channel, step, stage);
        second.copy<Element>(tail, row, channel, step - firsts, stage);
      },
      [&](int row, int step, SharedOffset stage) {
        const TilePlace place{row, tail.rows, channel};
        if (!warp_has_work(place, tail.channels)) return;
        if (step == 0 || step == firsts) product.clear();
        multiply_stage<Products>(product, stage);
        if (step == firsts - 1) apply_affine<Element, false>(product, 0, sum);
        if (step != steps - 1) return;
        apply_affine<Element, true>(product, 1, sum);
        store_tile<Element>(tail, tail.y, sum, place, tail.relu);
      });
}

template <class Element>
DEVICE void apply_sources(const Tail& tail, TileColumn column) {
  const auto streamed = [&](const Branch& branch) {
    return StreamedAddend{branch.x, branch.source != Source::none, branch.channels_before};
  };
  stream_tiles<Element>(tail, tail.y, streamed(tail.branches[0]), streamed(tail.branches[1]), tail.vectorised,
                        tail.relu, column);
}

template <class Products, int products>
DEVICE void apply(const Tail& tail) {
  using Element = typename Products::Element;
  const int columns = tiles_of(tail.channels, tile_columns);
  for_each_column({0, columns, columns}, [&](TileColumn column) {
    prepare_affines<Element>(tail, column);
    device::block_sync();
    if constexpr (products == 0) {
      apply_sources<Element>(tail, column);
    } else if constexpr (products == 1) {
      apply_product<Products>(tail, column);
    } else {
      apply_products<Products>(tail, column);
    }
  });
}

}  // namespace fused_resnet
