// The phase that writes y: products into accumulators, norms, the other source, relu. Where no branch is multiplied, y
// is streamed (stream.cuh). `projections`: there are branches that are multiplied; they come first.
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

// Both products are summed up in one set of accumulators: the first, once it is whole, is brought to the units of the
// second, which is added to it then. The second's scale may be zero, or nothing beside the first's: something takes its
// place that the sum does not feel, unless the second product is 2^40 times the first. It is large enough to divide by.
DEVICE float common_scale(const Affine& first, const Affine& second) {
  constexpr float smallest = 0x1p-120f;
  const float beside_first = device::magnitude(first.scale) * 0x1p-64f;
  const float least = beside_first > smallest ? beside_first : smallest;
  return device::magnitude(second.scale) < least ? least : second.scale;
}
DEVICE Affine first_of_sum(const Affine& first, const Affine& second) {
  return {first.centre, first.scale / common_scale(first, second), 0.0f};
}
DEVICE Affine second_of_sum(const Affine& first, const Affine& second) {
  return {second.centre, common_scale(first, second), first.shift + second.shift};
}

template <class Element>
DEVICE void prepare_affines(const Tail& tail, TileColumn column) {
  Affines::prepare(column.channel(), tail.channels, [&](int index, int channel) {
    const Branch& branch = tail.branches[index];
    if (column.share == 0 && branch.statistics == Statistics::running && branch.mean != nullptr)
      keep_running_statistics<Element>(branch, channel);
    if (!is_product(tail.branches[1])) return affine<Element>(branch, channel);
    const Affine first = affine<Element>(tail.branches[0], channel),
                 second = affine<Element>(tail.branches[1], channel);
    return index == 0 ? first_of_sum(first, second) : second_of_sum(first, second);
  });
}

// The steps of a tile of y: a product, then another or what a source adds to it.
template <class Element>
StepCounts output_steps(const Tail& tail, int slots) {
  const Branch& other = tail.branches[1];
  const int first = product_steps<Element>(tail.branches[0].x.channels);
  if (is_product(other)) {
    const int both = first + product_steps<Element>(other.x.channels);
    return {slots, first, both, both};
  }
  return {slots, first, first, first + (other.source == Source::none ? 0 : Addend<Element>::steps)};
}

template <class Products>
struct OutputSteps {
  using Element = typename Products::Element;

  const Tail& tail;
  const StepCounts& count;

  DEVICE OutputSteps(const Tail& of, const StepCounts& steps) : tail(of), count(steps) {}

  DEVICE Addend<Element> addend() const {
    const Branch& other = tail.branches[1];
    return {other.x, other.channels_before, other.statistics != Statistics::none};
  }

  DEVICE ProductOperands product(int step) const { return weight_product(tail, tail.branches[step >= count.first]); }

  // Starts the copies of a step; the tile begins at (row, channel).
  DEVICE void copy(int row, int channel, int step, SharedOffset stage) {
    const bool adds = step >= count.products;
    const int own = step - (adds ? count.products : step >= count.first ? count.first : 0);
    if (own == 0) begin(row, channel, step);
    if (stages.begun()) return stages.copy(stage);
    if (adds) return addend().copy(tail, row, channel, own, stage);
    product(step).template copy<Element>(tail, row, channel, own, stage);
  }

 private:
  DEVICE void begin(int row, int channel, int step) {
    if (step >= count.products) return addend().begin(stages, tail, row, channel);
    product(step).template begin<Element>(stages, tail, row, channel);
  }

  RowStages<Element> stages;
};

template <class Products>
DEVICE void apply_products(const Tail& tail, const StepCounts& count, TileColumn column) {
  using Element = typename Products::Element;
  const int channel = column.channel();
  OutputSteps<Products> steps(tail, count);
  const Pieces<Element> pieces(warp_tile());
  Accumulators sum;
  run_tiles(
      tail, column, count, [&](int row, int step, SharedOffset stage) { steps.copy(row, channel, step, stage); },
      [&](int row, int step, SharedOffset stage) {
        const TilePlace place{row, channel};
        if (!warp_has_work(tail, place, tail.channels)) return;
        if (step == 0) start(sum);
        if (step < count.products) multiply_step<Products>(sum, stage, pieces);
        if (step == count.first - 1) apply_affine<Element>(sum, 0);
        if (step >= count.products) steps.addend().add(step - count.products, 1, stage, sum);
        if (step != count.all - 1) return;
        if (count.products > count.first) apply_affine<Element>(sum, 1);
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

template <class Products, bool projections>
DEVICE void apply(const Tail& tail, const StepCounts& steps, const int& columns) {
  using Element = typename Products::Element;
  for_each_column(columns, [&](TileColumn column) {
    prepare_affines<Element>(tail, column);
    device::block_sync();
    if constexpr (projections) {
      apply_products<Products>(tail, steps, column);
    } else {
      apply_sources<Element>(tail, column);
    }
  });
}

}  // namespace fused_resnet
