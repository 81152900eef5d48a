// The second half of the backward's finish phase: matrices, from the vectors that the first has left.
//
// dW = diag(a) (G - diag(dgamma / std) W Cov), Q, and diag(a) W and Q ready to be multiplied with (docs/design.md,
// section 3).
#pragma once

#include <grad_finish.cuh>
#include <weight_products.cuh>

namespace fused_resnet {

// What dW takes of a row of W Cov: dW = scale (G + surplus mu - slope W Cov).
struct RowCorrections {
  DEVICE static void prepare(const TailGradient& gradient, int index, int first) {
    const int row = device::thread_index(), channel = first + row;
    if (row >= matrix_tile) return;
    const Branch& branch = gradient.tail.branches[index];
    const BranchGradient& own = gradient.branches[index];
    const bool exists = channel < gradient.tail.channels;
    device::shared_store(scratch(row), exists ? norm_scale(branch, channel) : 0.0f);
    device::shared_store(scratch(matrix_tile + row),
                         exists ? device::global_load(own.dot + channel) * inverse_std(branch, channel) : 0.0f);
    device::shared_store(scratch(2 * matrix_tile + row),
                         exists && own.own_mean != nullptr ? surplus(gradient, index, channel) : 0.0f);
  }
  DEVICE static float scale(int row) { return device::shared_load<float>(scratch(row)); }
  DEVICE static float slope(int row) { return device::shared_load<float>(scratch(matrix_tile + row)); }
  DEVICE static float surplus_of(int row) { return device::shared_load<float>(scratch(2 * matrix_tile + row)); }
};

// dW of a training norm, a tile of it.
template <class Products>
DEVICE void correct_weight_gradient(const TailGradient& gradient, int index, int tile) {
  const Tail& tail = gradient.tail;
  const Branch& branch = tail.branches[index];
  const BranchGradient& own = gradient.branches[index];
  const int inputs = branch.x.channels, across = tiles_of(inputs, matrix_tile);
  const int channel = tile / across * matrix_tile, input = tile % across * matrix_tile;
  MatrixSums sum;
  sum.clear();
  CovarianceProduct<Products>{tail, branch, channel}.multiply(input, sum);
  // All that is loaded is under way together, ahead of what is stored.
  Vector16<float> results[SharedTile::fours];
  SharedTile::for_each_four([&](int i, int row, int column) {
    const float* from = own.product + static_cast<std::int64_t>(channel + row) * inputs + input + column;
    const int left = channel + row < tail.channels ? inputs - input - column : 0;
    results[i] = load_four(from, left, inputs % 4 == 0);
  });
  RowCorrections::prepare(gradient, index, channel);
  SharedTile::store(sum);
  SharedTile::for_each_four([&](int i, int row, int column) {
    const int left = inputs - input - column;
    if (channel + row >= tail.channels || left <= 0) return;
    Vector16<float>& result = results[i];
    const Vector16<float> product = SharedTile::row(row, column);
    if (own.own_mean != nullptr) {
      const Vector16<float> mu = load_four(branch.mu + input + column, left, false);
#pragma unroll
      for (int k = 0; k < 4; ++k)
        result.values[k] = device::fma(RowCorrections::surplus_of(row), mu.values[k], result.values[k]);
    }
#pragma unroll
    for (int k = 0; k < 4; ++k)
      result.values[k] =
          RowCorrections::scale(row) * device::fma(-RowCorrections::slope(row), product.values[k], result.values[k]);
    store_four_elements<typename Products::Element>(own.dweight, channel + row, input + column, left, result.values);
  });
  device::block_sync();  // the sums have been read
}

// Writes a tile of a share of Q, and its mirror image where that is another tile.
DEVICE void store_quadratic(const TailGradient& gradient, int index, int part, int first, int second) {
  const int inputs = gradient.tail.branches[index].x.channels;
  float* share = gradient.branches[index].quadratic_exact + static_cast<std::int64_t>(part) * inputs * inputs;
  const auto store = [&](int row, int column, const Vector16<float>& values) {
    if (row >= inputs || column >= inputs) return;
    store_four(share + static_cast<std::int64_t>(row) * inputs + column, values, inputs - column, inputs % 4 == 0);
  };
  SharedTile::for_each_four(
      [&](int, int row, int column) { store(first + row, second + column, SharedTile::row(row, column)); });
  if (first == second) return;
  SharedTile::for_each_four(
      [&](int, int row, int column) { store(second + row, first + column, SharedTile::column(column, row)); });
}

// A tile of a share of Q, on or below the diagonal.
template <class Products>
DEVICE void multiply_quadratic(const TailGradient& gradient, int index, int number) {
  using Product = WeightedProduct<Products>;
  const Tail& tail = gradient.tail;
  const Branch& branch = tail.branches[index];
  const BranchGradient& own = gradient.branches[index];
  const int parts = quadratic_parts(tail, branch.x.channels), part = number % parts;
  const TilePair pair(number / parts);
  const int first = pair.row * matrix_tile, second = pair.column * matrix_tile;
  const int each = tiles_of(tiles_of(tail.channels, parts), Product::depth) * Product::depth;
  const int begin = part * each, end = begin + each < tail.channels ? begin + each : tail.channels;
  MatrixSums sum;
  sum.clear();
  Product{tail, branch}.multiply(
      first, second, begin, end,
      [slope = own.slope, dot = own.dot](int c) {
        return device::global_load(slope + c) * device::global_load(dot + c);
      },
      sum);
  SharedTile::store(sum);
  store_quadratic(gradient, index, part, first, second);
  device::block_sync();  // the sums have been read
}

// A power of two for the largest magnitude of a row, or any where that is zero or no number: values divided by it are
// as exact as before and below 2^15, which float16 holds, and as many as possible of the smaller ones with it.
DEVICE float scale_of(float largest) {
  constexpr std::uint32_t exponent = 0x7f800000u;
  const float power = device::bits_float(device::float_bits(largest) & exponent);
  constexpr float most = 1.15292150e18f;  // 2^60, so that no quotient of two scales overflows
  constexpr float unit = 1.0f / (1 << 14);
  if (!(power > 0.0f)) return 1.0f;
  return unit * (power > most ? most : power < 1.0f / most ? 1.0f / most : power);
}

// Elements of a group's rows that wait in shared memory until their scales are known; of longer rows they are made
// again.
struct HeldRows {
  static constexpr int first_float = block_warps * channel_group;  // behind those of `max_over_block`
  static constexpr int longest = (ring_bytes / 4 - first_float) / channel_group;

  DEVICE static SharedOffset place(int i, int k) { return stage_float(first_float + i * longest + k); }
  DEVICE static void store(int k, const float (&rows)[channel_group]) {
#pragma unroll
    for (int i = 0; i < channel_group; ++i) device::shared_store(place(i, k), rows[i]);
  }
  DEVICE static void load(int k, float (&rows)[channel_group]) {
#pragma unroll
    for (int i = 0; i < channel_group; ++i) rows[i] = device::shared_load<float>(place(i, k));
  }
};

// Leaves the group's scales, by the largest magnitudes of its rows. `values` as in `store_factor`.
template <class Values>
DEVICE void find_scales(const Factor& to, int first, int rows, int depth, Values values,
                        float (&scale)[channel_group]) {
#pragma unroll 1
  for (int k = device::thread_index(); k < depth; k += block_threads) {
    float at[channel_group];
    values(k, at);
#pragma unroll
    for (int i = 0; i < channel_group; ++i) {
      const float size = device::magnitude(at[i]);
      scale[i] = size > scale[i] ? size : scale[i];
    }
    if (depth <= HeldRows::longest) HeldRows::store(k, at);
  }
  max_over_block(scale, 0);
#pragma unroll
  for (int i = 0; i < channel_group; ++i) {
    scale[i] = scale_of(scale[i]);
    if (device::thread_index() == i && first + i < rows) device::global_store(to.scale + first + i, scale[i]);
  }
}

// The group's rows of a factor: `values(k, rows)` gives what they have at the summed position k, zeros where a row does
// not exist. Leaves scales and scaled, rounded elements; adds what `term(k)` times these make to `offsets`.
template <class Products, class Values, class Term>
DEVICE void store_factor(const Factor& to, int first, int rows, int depth, Values values, Term term,
                         float (&offsets)[channel_group]) {
  using Element = typename Products::Element;
  float scale[channel_group] = {};
  find_scales(to, first, rows, depth, values, scale);
  const int pitch = static_cast<int>(to.matrix.stride_c);
#pragma unroll 1
  for (int k = device::thread_index(); k < pitch; k += block_threads) {
    float at[channel_group] = {};
    const float factor = k < depth ? term(k) : 0.0f;
    if (k < depth && depth <= HeldRows::longest) HeldRows::load(k, at);
    if (k < depth && depth > HeldRows::longest) values(k, at);
#pragma unroll
    for (int i = 0; i < channel_group; ++i) {
      if (first + i >= rows) continue;
      const float scaled = at[i] * (1.0f / scale[i]);
      float stored = device::to_float(device::from_float<Element>(Products::operand(scaled)));
      store_element<Element>(to.matrix, first + i, k, stored);
      if (to.remainder.data != nullptr) {
        const float rest = Products::operand(scaled - stored);
        store_element<Element>(to.remainder, first + i, k, rest);
        stored += device::to_float(device::from_float<Element>(rest));
      }
      offsets[i] = device::fma(factor, stored * scale[i], offsets[i]);
    }
  }
}

// Loads a group of inputs, from `first` on, of an output channel's row of W; zeros where there are none.
template <class Products>
DEVICE void load_weights(const Branch& branch, int channel, int first, float (&weights)[channel_group]) {
  using Element = typename Products::Element;
  constexpr int vector = TileTraits<Element>::vector;
  static_assert(channel_group % vector == 0);
  const Matrix& w = branch.weight;
#pragma unroll
  for (int j = 0; j < channel_group; j += vector) {
    Vector16<Element> loaded{};
    const Element* at = static_cast<const Element*>(w.data) + channel * w.stride_c + (first + j) * w.stride_k;
    if (w.vectorised) {
      if (first + j < branch.x.channels) loaded = device::global_load(reinterpret_cast<const Vector16<Element>*>(at));
    } else {
#pragma unroll
      for (int i = 0; i < vector; ++i)
        if (first + j + i < branch.x.channels) loaded.values[i] = device::global_load(at + i * w.stride_k);
    }
#pragma unroll
    for (int i = 0; i < vector; ++i) weights[j + i] = Products::operand(device::to_float(loaded.values[i]));
  }
}

// Leaves a group's offsets, of input `first` and those behind it; `adds`: to what is there.
DEVICE void store_offsets(const BranchGradient& own, int first, int inputs, bool adds,
                          float (&offsets)[channel_group]) {
  const int i = device::thread_index();
  const bool exists = i < channel_group && first + i < inputs;
  const float before = adds && exists ? device::global_load(own.offset + first + i) : 0.0f;
  sum_over_block(offsets, 0);
#pragma unroll
  for (int k = 0; k < channel_group; ++k)
    if (i == k && exists) device::global_store(own.offset + first + k, before + offsets[k]);
}

// The offset takes the means out of both products of dx, and is made of the rounded elements that these take:
// -(S / M) folded - mu quadratic. Here, a group's rows of diag(a) W, with the first half of the offset.
template <class Products>
DEVICE void fold_weight(const TailGradient& gradient, int index, int group) {
  const Tail& tail = gradient.tail;
  const Branch& branch = tail.branches[index];
  const BranchGradient& own = gradient.branches[index];
  const int first = group * channel_group, inputs = branch.x.channels;
  const bool gram = branch.statistics == Statistics::gram;
  const float per_row = -1.0f / static_cast<float>(tail.rows);
  float offsets[channel_group] = {};
  store_factor<Products>(
      own.folded, first, inputs, tail.channels,
      [&](int c, float (&rows)[channel_group]) {
        load_weights<Products>(branch, c, first, rows);
        const float scale = norm_scale(branch, c);
#pragma unroll
        for (float& weight : rows) weight *= scale;
      },
      [&](int c) { return gram ? per_row * distant_sum(gradient, index, c) : 0.0f; }, offsets);
  store_offsets(own, first, inputs, false, offsets);
}

// Here, a group's rows of Q, with the other half.
template <class Products>
DEVICE void round_quadratic(const TailGradient& gradient, int index, int group) {
  const Branch& branch = gradient.tail.branches[index];
  const BranchGradient& own = gradient.branches[index];
  const int first = group * channel_group, inputs = branch.x.channels;
  const int parts = quadratic_parts(gradient.tail, inputs);
  float offsets[channel_group] = {};
  store_factor<Products>(
      own.quadratic, first, inputs, inputs,
      [&](int k, float (&rows)[channel_group]) {
        const float* share = own.quadratic_exact + static_cast<std::int64_t>(first) * inputs + k;
#pragma unroll
        for (float& value : rows) value = 0.0f;
#pragma unroll 2
        for (int part = 0; part < parts; ++part, share += static_cast<std::int64_t>(inputs) * inputs)
#pragma unroll
          for (int i = 0; i < channel_group; ++i)
            if (first + i < inputs) rows[i] += device::global_load(share + static_cast<std::int64_t>(i) * inputs);
      },
      [&](int k) { return -device::global_load(branch.mu + k); }, offsets);
  store_offsets(own, first, inputs, true, offsets);
}

// Calls `run(index, tile)` for those of the work's tiles that are the block's; items of other kinds come first, which
// `item` is counted from. With an index that is a constant, tensors are found without registers.
template <class Run>
DEVICE void for_each_tile(int& item, const Work& work, Run run) {
#pragma unroll 1
  for (; item < work.tiles; item += device::grid_size()) {
    const int number = static_cast<int>(device::unforeseen(item));
    if (number < work.tiles_before) {
      run(0, number);
    } else {
      run(1, number - work.tiles_before);
    }
  }
  item -= work.tiles;
}

// The same for groups of rows, by code that is there once for both branches.
template <class Run>
DEVICE void for_each_group(int& item, const Work& work, Run run) {
#pragma unroll 1
  for (; item < work.tiles; item += device::grid_size()) {
    const int index = item < work.tiles_before ? 0 : 1;
    run(index, index == 0 ? item : item - work.tiles_before);
  }
  item -= work.tiles;
}

// What follows from the vectors, of a tail with projections: dW, Q and diag(a) W, and behind a barrier Q's rows as dx
// takes them. Each has a loop: in one for several, each would take the other's registers.
template <class Products>
DEVICE void finish_operands(const TailGradient& gradient) {
  int item = device::block_index();
  for_each_tile(item, gradient.corrections,
                [&](int index, int tile) { correct_weight_gradient<Products>(gradient, index, tile); });
  for_each_tile(item, gradient.quadratics,
                [&](int index, int tile) { multiply_quadratic<Products>(gradient, index, tile); });
  for_each_group(item, gradient.foldings, [&](int index, int group) { fold_weight<Products>(gradient, index, group); });
  if (gradient.roundings.items == 0) return;
  device::grid_sync();
  item = device::block_index();
  for_each_group(item, gradient.roundings,
                 [&](int index, int group) { round_quadratic<Products>(gradient, index, group); });
}

}  // namespace fused_resnet
