// Products of matrices of weights in the finish phases, a block a tile of 64 x 64: W Cov, and W^T diag(s) W.
//
// Four warps make the tile, from half of what a stage has of the summed dimension; so all eight work. Their sums are
// added in a fixed order where they are used.
#pragma once

#include <exact_products.cuh>
#include <vectors.cuh>

namespace fused_resnet {

// Which part of the tile a warp makes, from which part of the summed dimension.
struct MatrixShare {
  static constexpr int rows = 16 * matrix_rows, columns = 8 * matrix_columns, across = matrix_tile / columns;
  static constexpr int tiles = matrix_tile / rows * across, parts = block_threads / device::warp_size / tiles;

  DEVICE static int part() { return device::warp_index() / tiles; }
  DEVICE static WarpTile tile() {
    const int number = device::warp_index() % tiles;
    return {number / across * rows, number % across * columns};
  }

  // Calls `run(k)` for each `step` of the warp's part of a stage of `depth`.
  template <int depth, int step, class Run>
  DEVICE static void for_each_step(Run run) {
    constexpr int own = depth / parts;
    static_assert(own % step == 0);
#pragma unroll 1
    for (int k = part() * own; k < (part() + 1) * own; k += step) run(k);
  }
};

// Of a warp's sums, the rows that are left to it once those of its parts are added up.
using HalfSums = FragmentSums<matrix_rows / MatrixShare::parts, matrix_columns>;

// The thread's number, from which nothing is computed ahead of its use: the registers would be missed by the
// accumulators.
DEVICE int thread_unforeseen() { return static_cast<int>(device::unforeseen(device::thread_index())); }

// Copies a tile of a matrix of (rows, columns) from (row, column) on to `to`, rows `pitch` bytes apart. What does not
// exist becomes zeros.
template <class Element, int tile_rows, int tile_columns, int pitch>
DEVICE void copy_matrix_tile(const Matrix& matrix, int rows, int columns, int row, int column, SharedOffset to) {
  constexpr int vector = TileTraits<Element>::vector, chunks = tile_columns / vector, apart = block_threads / chunks;
  const auto* data = static_cast<const Element*>(matrix.data);
  const int thread = thread_unforeseen();
  if (matrix.vectorised) {
    static_assert(block_threads % chunks == 0 && tile_rows % apart == 0);
    const unsigned first = static_cast<unsigned>(thread) / chunks, chunk = static_cast<unsigned>(thread) % chunks;
    const int left = column + static_cast<int>(chunk) * vector < columns ? rows - row - static_cast<int>(first) : 0;
    const Element* from = data + (row + first) * matrix.stride_c + column + chunk * vector;
    to += first * pitch + 16 * chunk;
#pragma unroll
    for (int i = 0; i < tile_rows / apart; ++i)
      device::copy_async_16(to + i * apart * pitch, from + i * apart * matrix.stride_c, i * apart < left);
    return;
  }
#pragma unroll 1
  for (int number = thread; number < tile_rows * tile_columns; number += block_threads) {
    const int r = number / tile_columns, c = number % tile_columns;
    const bool inside = row + r < rows && column + c < columns;
    const Element value =
        inside ? device::global_load(data + (row + r) * matrix.stride_c + (column + c) * matrix.stride_k) : Element{};
    device::shared_store(to + r * pitch + c * static_cast<int>(sizeof(Element)), value);
  }
}

// Cov, or another matrix of floats whose rows lie side by side.
DEVICE Matrix float_matrix(float* data, int columns) {
  return {data, columns, 1, columns % 4 == 0 && is_aligned(data)};
}

// W Cov of 64 output channels from `channel` on.
template <class Products>
struct CovarianceProduct {
  using Element = typename Products::Element;
  using Exact = ExactProducts<Products>;
  static constexpr int depth = 2 * TileTraits<Element>::depth, steps_of_tile = matrix_tile / depth;
  // Rows are spread over the banks for the loads of exact_products.cuh: 16 bytes of each of 8, or 32 of each of 4.
  static constexpr int weight_pitch = depth * sizeof(Element) + (sizeof(Element) == 2 ? 16 : 32),
                       covariance_pitch = 4 * depth + 32;
  static constexpr int weight_bytes = matrix_tile * weight_pitch;
  static constexpr int bytes = weight_bytes + matrix_tile * covariance_pitch;
  using Ring = RingOf<ring_bytes / bytes, bytes>;
  static_assert(Ring::stages >= 2 && Ring::stages >= steps_of_tile);

  const Tail& tail;
  const Branch& branch;
  int channel;

  DEVICE int steps() const { return tiles_of(branch.x.channels, matrix_tile) * steps_of_tile; }

  // Adds the warp's share of W Cov for the input channels from `column` on. The steps go around, so that the weights of
  // these come last, and are left in shared memory.
  DEVICE void multiply(int column, MatrixSums& sum) const {
    const int inputs = branch.x.channels, all = steps();
    const WarpTile tile = MatrixShare::tile();
    const Matrix covariance = float_matrix(branch.cov, inputs);
    const auto summed = [&](int step) {
      const int around = column / depth + steps_of_tile + step;
      return (around < all ? around : around - all) * depth;
    };
    pipeline<Ring>(
        all,
        [&](int step, SharedOffset stage) {
          copy_matrix_tile<Element, matrix_tile, depth, weight_pitch>(branch.weight, tail.channels, inputs, channel,
                                                                      summed(step), stage);
          copy_matrix_tile<float, matrix_tile, depth, covariance_pitch>(covariance, inputs, inputs, column,
                                                                        summed(step), stage + weight_bytes);
        },
        [&](int step, SharedOffset stage) {
          if (channel + tile.row >= tail.channels || column + tile.column >= inputs) return;
          MatrixShare::for_each_step<depth, Exact::depth>([&](int k) {
            if (summed(step) + k >= inputs) return;
            Exact::rows(sum, SharedRows<weight_pitch>{stage + k * static_cast<int>(sizeof(Element))},
                        SharedRows<covariance_pitch>{stage + weight_bytes + k * 4}, tile);
          });
        });
  }

  // Adds the warp's sums to those of the warp that has the rest of the summed dimension; each warp gets half of the
  // rows. The sums must be whole before anything is multiplied with them: what cancels in them would not cancel later
  // as exactly. Uses the stage that comes next. Called by all threads.
  DEVICE HalfSums join(const MatrixSums& sum) const {
    const SharedOffset stage = Ring::stage(steps());
    const auto place = [&](int warp, int m, int n, int i) {
      const int number = ((warp * HalfSums::rows + m) * matrix_columns + n) * 4 + i;
      return stage + 4 * (number * device::warp_size + device::lane_index());
    };
    static_assert(4 * HalfSums::rows * matrix_columns * 4 * block_threads <= bytes);
    const bool first = MatrixShare::part() == 0;
    const auto half = [&](bool upper, int m, int n, int i) {
      return upper ? sum.values[m][n][i] : sum.values[HalfSums::rows + m][n][i];
    };
    HalfSums::for_each([&](int m, int n, int i) {
      device::shared_store(place(device::warp_index(), m, n, i), half(!first, m, n, i));
    });
    device::block_sync();
    const int other = (device::warp_index() + MatrixShare::tiles) % (2 * MatrixShare::tiles);
    HalfSums own;
    HalfSums::for_each([&](int m, int n, int i) {
      own.values[m][n][i] = half(first, m, n, i) + device::shared_load<float>(place(other, m, n, i));
    });
    return own;
  }

  // The weights of a row for two neighbouring columns, which the last product left, as they are multiplied.
  DEVICE Float2 weights_left(int row, int column) const {
    struct alignas(2 * sizeof(Element)) Pair {
      Element at[2];
    };
    const int step = steps() - steps_of_tile + column / depth;
    const SharedOffset stage = Ring::stage(step);
    const auto pair =
        device::shared_load<Pair>(stage + row * weight_pitch + column % depth * static_cast<int>(sizeof(Element)));
    return {Products::operand(device::to_float(pair.at[0])), Products::operand(device::to_float(pair.at[1]))};
  }
};

// W^T diag(s) W, of input channels by input channels.
template <class Products>
struct WeightedProduct {
  using Element = typename Products::Element;
  using Exact = ExactProducts<Products>;
  using Traits = PixelTraits<Element, matrix_tile>;
  static constexpr int depth = Traits::depth;
  using Ring = RingOf<3, 2 * Traits::bytes>;
  // Factors s that are in shared memory at a time, behind the stages.
  static constexpr SharedOffset factors = Ring::stages * Ring::bytes;
  static constexpr int held = (ring_bytes - Ring::stages * Ring::bytes) / 4 / depth * depth;
  static_assert(held >= depth);

  const Tail& tail;
  const Branch& branch;

  // Adds the warp's share for the input channels from `row` on by those from `column` on, of the output channels from
  // `begin` on, below `end`; `factor(c)` gives s. The stages must be free, and are afterwards.
  template <class Factor>
  DEVICE void multiply(int row, int column, int begin, int end, Factor factor, MatrixSums& sum) const {
    const WarpTile tile = MatrixShare::tile();
#pragma unroll 1
    for (int from = begin; from < end; from += held) {
      const int count = end - from < held ? end - from : held;
      const int steps = tiles_of(count, depth);
#pragma unroll 1
      for (int i = device::thread_index(); i < steps * depth; i += block_threads)
        device::shared_store(factors + 4 * i, i < count ? factor(from + i) : 0.0f);
      pipeline<Ring>(
          steps,
          [&](int step, SharedOffset stage) {
#pragma unroll 1
            for (int i = 0; i < 2; ++i)
              copy_matrix_tile<Element, depth, matrix_tile, Traits::pitch>(branch.weight, end, branch.x.channels,
                                                                           from + step * depth, i == 0 ? row : column,
                                                                           stage + i * Traits::bytes);
          },
          [&](int step, SharedOffset stage) {
            if (row + tile.row >= branch.x.channels || column + tile.column >= branch.x.channels) return;
            MatrixShare::for_each_step<depth, Exact::depth>([&](int k) {
              if (step * depth + k >= count) return;
              Exact::weighted(sum, SharedRows<Traits::pitch>{stage + k * Traits::pitch},
                              SharedRows<Traits::pitch>{stage + Traits::bytes + k * Traits::pitch},
                              factors + 4 * (step * depth + k), tile);
            });
          });
    }
  }
};

// The sums of a tile's two shares, by way of the stages, as whole rows.
struct SharedTile {
  static constexpr int pitch = matrix_tile + 4, floats = matrix_tile * pitch;
  static_assert(4 * MatrixShare::parts * floats <= ring_bytes);

  DEVICE static SharedOffset offset(int part, int row, int column) {
    return 4 * (part * floats + row * pitch + column);
  }

  // Called by all threads; the stages must be free.
  DEVICE static void store(const MatrixSums& sum) {
    const Lane lane;
    const WarpTile tile = MatrixShare::tile();
#pragma unroll
    for (int m = 0; m < matrix_rows; ++m)
#pragma unroll
      for (int n = 0; n < matrix_columns; ++n)
#pragma unroll
        for (int half = 0; half < 2; ++half) {
          const int row = tile.row + m * 16 + half * 8 + lane.g, column = tile.column + n * 8 + 2 * lane.t;
          const float* pair = &sum.values[m][n][2 * half];
          device::shared_store(offset(MatrixShare::part(), row, column), Float2{pair[0], pair[1]});
        }
    device::block_sync();
  }

  // Four neighbours of a row.
  DEVICE static Vector16<float> row(int row, int column) {
    Vector16<float> sum{};
#pragma unroll
    for (int part = 0; part < MatrixShare::parts; ++part) {
      const auto one = device::shared_load<Vector16<float>>(offset(part, row, column));
#pragma unroll
      for (int i = 0; i < 4; ++i) sum.values[i] += one.values[i];
    }
    return sum;
  }

  // Four neighbours of a column.
  DEVICE static Vector16<float> column(int row, int column) {
    Vector16<float> sum{};
#pragma unroll
    for (int part = 0; part < MatrixShare::parts; ++part)
#pragma unroll
      for (int i = 0; i < 4; ++i) sum.values[i] += device::shared_load<float>(offset(part, row + i, column));
    return sum;
  }

  // How many four neighbours of the tile a thread has.
  static constexpr int across = matrix_tile / 4, fours = matrix_tile * across / block_threads;

  // Calls `run(i, row, column)` for number i of them, neighbouring threads beside each other.
  template <class Run>
  DEVICE static void for_each_four(Run run) {
    const int thread = thread_unforeseen();
#pragma unroll
    for (int i = 0; i < fours; ++i) {
      const int number = i * block_threads + thread;
      run(i, number / across, number % across * 4);
    }
  }
};

}  // namespace fused_resnet
