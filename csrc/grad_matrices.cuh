// The second half of the backward's finish phase: matrices, from the vectors that the first has left.
//
// `finish_matrices` takes dW = diag(a) (G - diag(dgamma / std) W Cov) and Q (docs/design.md, section 3); behind a
// barrier, `finish_factors` makes diag(a) W and Q ready to be multiplied with.
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
  device::block_sync();  // the last tile has been written
  RowCorrections::prepare(gradient, index, channel);
  MatrixSums sum;
  sum.clear();
  CovarianceProduct<Products>{tail, branch, channel}.multiply(input, sum);
  SharedTile::store(sum);
  SharedTile::for_each_four([&](int row, int column) {
    const int left = inputs - input - column;
    if (channel + row >= tail.channels || left <= 0) return;
    const float* from = own.product + static_cast<std::int64_t>(channel + row) * inputs + input + column;
    Vector16<float> result = load_four(from, left, inputs % 4 == 0);
    const Vector16<float> product = SharedTile::row(row, column);
    if (own.own_mean != nullptr) {
      const Vector16<float> mu = load_four(branch.mu + input + column, left, false);
#pragma unroll
      for (int i = 0; i < 4; ++i)
        result.values[i] = device::fma(RowCorrections::surplus_of(row), mu.values[i], result.values[i]);
    }
#pragma unroll
    for (int i = 0; i < 4; ++i) {
      const float value =
          RowCorrections::scale(row) * device::fma(-RowCorrections::slope(row), product.values[i], result.values[i]);
      if (i < left) store_element<typename Products::Element>(own.dweight, channel + row, input + column + i, value);
    }
  });
}

// Writes a tile of Q, and its mirror image where that is another tile.
DEVICE void store_quadratic(const TailGradient& gradient, int index, int first, int second) {
  const int inputs = gradient.tail.branches[index].x.channels;
  const auto store = [&](int row, int column, const Vector16<float>& values) {
    if (row >= inputs || column >= inputs) return;
    float* to = gradient.branches[index].quadratic_exact + static_cast<std::int64_t>(row) * inputs + column;
    store_four(to, values, inputs - column, inputs % 4 == 0);
  };
  SharedTile::for_each_four(
      [&](int row, int column) { store(first + row, second + column, SharedTile::row(row, column)); });
  if (first == second) return;
  SharedTile::for_each_four(
      [&](int row, int column) { store(second + row, first + column, SharedTile::column(column, row)); });
}

// A tile of Q on or below the diagonal.
template <class Products>
DEVICE void multiply_quadratic(const TailGradient& gradient, int index, int number) {
  const TilePair pair(number);
  const int first = pair.row * matrix_tile, second = pair.column * matrix_tile;
  const BranchGradient& own = gradient.branches[index];
  MatrixSums sum;
  sum.clear();
  WeightedProduct<Products>{gradient.tail, gradient.tail.branches[index]}.multiply(
      first, second,
      [slope = own.slope, dot = own.dot](int c) {
        return device::global_load(slope + c) * device::global_load(dot + c);
      },
      sum);
  SharedTile::store(sum);
  store_quadratic(gradient, index, first, second);
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

// The group's rows of a factor: `values(k, rows)` gives what they have at the summed position k, zeros where a row does
// not exist. Leaves scales and scaled, rounded elements; adds what `term(k)` times these make to `offsets`.
template <class Products, class Values, class Term>
DEVICE void store_factor(const Factor& to, int first, int rows, int depth, Values values, Term term,
                         float (&offsets)[channel_group]) {
  using Element = typename Products::Element;
  float scale[channel_group] = {};
#pragma unroll 2
  for (int k = device::thread_index(); k < depth; k += block_threads) {
    float at[channel_group];
    values(k, at);
#pragma unroll
    for (int i = 0; i < channel_group; ++i) {
      const float size = device::magnitude(at[i]);
      scale[i] = size > scale[i] ? size : scale[i];
    }
  }
  max_over_block(scale, 0);
#pragma unroll
  for (int i = 0; i < channel_group; ++i) {
    scale[i] = scale_of(scale[i]);
    if (device::thread_index() == i && first + i < rows) device::global_store(to.scale + first + i, scale[i]);
  }
  const int pitch = static_cast<int>(to.matrix.stride_c);
#pragma unroll 1
  for (int k = device::thread_index(); k < pitch; k += block_threads) {
    float at[channel_group] = {};
    if (k < depth) values(k, at);
    const float factor = k < depth ? term(k) : 0.0f;
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

// Computes the factors of a group of dx's channels. The offset takes the means out of both products, and is made of the
// rounded elements that these take: -(S / M) folded - mu quadratic.
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
  if (gram) {
    store_factor<Products>(
        own.quadratic, first, inputs, inputs,
        [&](int k, float (&rows)[channel_group]) {
          const float* column = own.quadratic_exact + k;
#pragma unroll
          for (int i = 0; i < channel_group; ++i)
            rows[i] =
                first + i < inputs ? device::global_load(column + static_cast<std::int64_t>(first + i) * inputs) : 0.0f;
        },
        [&](int k) { return -device::global_load(branch.mu + k); }, offsets);
  }
  sum_over_block(offsets, 0);
#pragma unroll
  for (int i = 0; i < channel_group; ++i)
    if (device::thread_index() == i && first + i < inputs) device::global_store(own.offset + first + i, offsets[i]);
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

// Computes Q and dW of training norms, in two loops: in one, each would take the other's registers.
template <class Products>
DEVICE void finish_matrices(const TailGradient& gradient) {
  int item = device::block_index();
  for_each_tile(item, gradient.quadratics,
                [&](int index, int tile) { multiply_quadratic<Products>(gradient, index, tile); });
  for_each_tile(item, gradient.corrections,
                [&](int index, int tile) { correct_weight_gradient<Products>(gradient, index, tile); });
}

template <class Products>
DEVICE void finish_factors(const TailGradient& gradient) {
  int item = device::block_index();
  for_each_tile(item, gradient.factors, [&](int index, int group) { fold_weight<Products>(gradient, index, group); });
}

// What follows from the vectors, of a tail with projections.
template <class Products>
DEVICE void finish_operands(const TailGradient& gradient) {
  if (has_matrices(gradient)) {
    finish_matrices<Products>(gradient);
    device::grid_sync();
  }
  finish_factors<Products>(gradient);
}

}  // namespace fused_resnet
