// The mean and the covariance of a projection's input, from what the ranges of rows leave.
#pragma once

#include <moments.cuh>
#include <reductions.cuh>
#include <vectors.cuh>

namespace fused_resnet {

// How a branch's Cov is cut into chunks, each of which a block adds up: on and below the diagonal, so many rows and
// columns of a pair of tiles. A thread has four neighbours, or shares them with others that take other ranges: so many
// that all chunks are added up side by side.
struct CovarianceChunks {
  int channels, extent, sharers, rows, columns;

  DEVICE explicit CovarianceChunks(const Branch& branch)
      : channels(branch.statistics == Statistics::gram ? branch.x.channels : 0),
        extent(channels <= narrow ? narrow : wide) {
    constexpr int fewest_rows = 4;
#pragma unroll 1
    for (sharers = 32;; sharers /= 2) {
      const int elements = 4 * block_threads / sharers;
      columns = elements / fewest_rows < extent ? elements / fewest_rows : extent;
      rows = elements / columns;
      if (sharers == 1 || (sharers <= branch.partition.ranges && all() <= resident_blocks)) return;
    }
  }

  DEVICE int tiles() const { return (channels + tile_columns - 1) / tile_columns; }
  DEVICE int across() const { return extent / columns; }
  DEVICE int of_pair() const { return extent / rows * across(); }
  // A row of chunks and its mirror image have as many on and below the diagonal as any other two.
  DEVICE int of_diagonal() const { return extent / rows / 2 * (across() + 1); }
  DEVICE int on_diagonals() const { return tiles() * of_diagonal(); }
  DEVICE int all() const { return on_diagonals() + tiles() * (tiles() - 1) / 2 * of_pair(); }
};

// One of them: where it begins in which pair of tiles.
struct CovarianceChunk {
  int tile_row, tile_column, row, column;

  DEVICE CovarianceChunk(const CovarianceChunks& of, int number) {
    const int across = of.across(), beyond = number - of.on_diagonals();
    int down, right;
    if (beyond < 0) {
      tile_row = tile_column = number / of.of_diagonal();
      const int own = number % of.of_diagonal();
      down = own / (across + 1);
      right = own % (across + 1);
      const int below_diagonal = down * of.rows / of.columns + 1;
      if (right >= below_diagonal) {
        down = of.extent / of.rows - 1 - down;
        right -= below_diagonal;
      }
    } else {
      const TilePair pair(beyond / of.of_pair());
      const int own = beyond % of.of_pair();
      tile_row = pair.row + 1;
      tile_column = pair.column;
      down = own / across;
      right = own % across;
    }
    row = down * of.rows;
    column = right * of.columns;
  }

  DEVICE int pair() const { return tile_row * (tile_row + 1) / 2 + tile_column; }
  DEVICE int first_row() const { return tile_row * tile_rows + row; }
  DEVICE int first_column() const { return tile_column * tile_columns + column; }
};

// mean - shift of a chunk's channels, those of its rows first: four for each thread, or for several that take other
// ranges.
class ChunkMeans {
 public:
  DEVICE ChunkMeans(const Branch& branch, const CovarianceChunks& chunks, const CovarianceChunk& chunk)
      : apart_(chunks.columns / 2), branch_(branch) {
    const int four = device::thread_index() % apart_ * 4, of_columns = four - chunks.rows;
    channel_ = of_columns < 0 ? chunk.first_row() + four : chunk.first_column() + of_columns;
    const int left = of_columns < chunks.columns ? branch.x.channels - channel_ : 0;
    // The chunk that has these channels both as rows and as columns leaves their means.
    const int ahead = chunk.first_row() - chunk.first_column();
    leaves_ = device::thread_index() < apart_ && of_columns < 0 && left > 0 && ahead >= 0 && ahead < chunks.columns;
    const bool aligned = branch.x.channels % 4 == 0;
    if (leaves_) shift_ = load_four(branch.shift + channel_, left, aligned);
    if (left <= 0) return;
    add_fours<5>(branch.partial_sum + channel_, branch.x.channels, device::thread_index() / apart_,
                 branch.partition.ranges, block_threads / apart_, left, aligned, sums_);
  }

  DEVICE void join() { leave_sums(sums_, apart_, 0); }

  // Behind a barrier.
  DEVICE void store(const Tail& tail) {
    if (device::thread_index() >= apart_) return;
    joined_sums(sums_, apart_, 0);
#pragma unroll
    for (int k = 0; k < 4; ++k) {
      const double mean = sums_[k] / static_cast<double>(tail.rows);
      device::shared_store(place(4 * device::thread_index() + k), mean);
      if (leaves_ && channel_ + k < branch_.x.channels)
        device::global_store(branch_.mu + channel_ + k, static_cast<float>(shift_.values[k] + mean));
    }
  }

  // Behind another: of number `i`.
  DEVICE static double at(int i) { return device::shared_load<double>(place(i)); }

 private:
  // Behind the sums.
  DEVICE static SharedOffset place(int i) { return 2 * shared_sums_bytes<4> + 8 * i; }
  static_assert(2 * shared_sums_bytes<4> + 8 * 2 * tile_columns <= ring_bytes);

  int apart_, channel_;
  bool leaves_;
  const Branch& branch_;
  Vector16<float> shift_;
  double sums_[4] = {};
};

// Leaves a chunk of Cov, and its mirror image.
DEVICE void combine_chunk(const Tail& tail, const Branch& branch, const CovarianceChunks& chunks,
                          const CovarianceChunk& chunk) {
  const int channels = branch.x.channels, apart = block_threads / chunks.sharers, fours = chunks.columns / 4;
  const int four = device::thread_index() % apart, row = four / fours, column = 4 * (four % fours);
  const std::int64_t i = chunk.first_row() + row, j = chunk.first_column() + column;
  const bool exists = i < channels && j <= i;
  ChunkMeans means(branch, chunks, chunk);
  double sums[4] = {};
  if (exists) {
    const float* from = gram_tile(branch, 0, chunk.pair()) + gram_element(chunk.row + row, chunk.column + column);
    const std::int64_t apart_floats = static_cast<std::int64_t>(tile_pairs(channels)) * (tile_rows * tile_columns);
    add_fours<9>(from, apart_floats, device::thread_index() / apart, branch.partition.ranges, chunks.sharers,
                 channels - static_cast<int>(j), true, sums);
  }
  device::block_sync();  // the last chunk's means have been read
  means.join();
  leave_sums(sums, apart, shared_sums_bytes<4>);
  device::block_sync();
  means.store(tail);
  device::block_sync();
  if (!exists || device::thread_index() >= apart) return;
  joined_sums(sums, apart, shared_sums_bytes<4>);
#pragma unroll
  for (int k = 0; k < 4; ++k) {
    if (j + k > i) break;
    const double mean = sums[k] / static_cast<double>(tail.rows);
    const auto cov =
        static_cast<float>(device::fma(-ChunkMeans::at(row), ChunkMeans::at(chunks.rows + column + k), mean));
    device::global_store(branch.cov + i * channels + j + k, cov);
    if (i != j + k) device::global_store(branch.cov + (j + k) * channels + i, cov);
  }
}

// mu and Cov of both branches' inputs.
DEVICE void combine(const Tail& tail) {
  const int before = CovarianceChunks(tail.branches[0]).all(), all = before + CovarianceChunks(tail.branches[1]).all();
#pragma unroll 1
  for (int i = device::block_index(); i < all; i += device::grid_size()) {
    const Branch& branch = tail.branches[i < before ? 0 : 1];
    const CovarianceChunks chunks(branch);
    combine_chunk(tail, branch, chunks, CovarianceChunk(chunks, i < before ? i : i - before));
  }
}

}  // namespace fused_resnet
