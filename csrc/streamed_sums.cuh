// Sums over a range's rows of what is streamed: two a channel.
#pragma once

#include <columns.cuh>
#include <stream.cuh>

namespace fused_resnet {

// Calls `run(row)` for each batch of `batch` rows that are the thread's; `row(j)` is the number of the j-th, perhaps
// beyond the range's end.
template <int batch, class Share, class Run>
DEVICE void for_each_batch(RowRange rows, const Share& share, Run run) {
#pragma unroll 1
  for (int first = rows.begin + share.row(); first < rows.end; first += batch * share.rows())
    run([first, apart = share.rows()](int j) { return first + j * apart; });
}

// Adds up what the threads that share a channel have, in the order of their rows, and calls `use(column, sum, other)`
// for each of the pass's columns. Called by all threads; the stages must be free, and are afterwards.
template <int V, bool vectorised, class Use>
DEVICE void join_streamed(const Share<V, vectorised>& share, const float (&sums)[2][V], Use use) {
  const int columns = share.columns();
  const auto at = [&](int which, int row, int column) {
    return static_cast<SharedOffset>(4 * ((which * share.rows() + row) * columns + column));
  };
  // Whoever reads sums of columns that an item has joined may be behind (`ColumnSums`).
  static_assert(4 * 2 * block_threads * V <= joined_columns);
#pragma unroll
  for (int which = 0; which < 2; ++which)
#pragma unroll
    for (int i = 0; i < V; ++i) device::shared_store(at(which, share.row(), share.column() + i), sums[which][i]);
  device::block_sync();
  const int column = device::thread_index();
  if (column < columns) {
    float totals[2] = {0.0f, 0.0f};
    constexpr int chain = 16;  // sums of sums: rounding grows with the longest chain
#pragma unroll 1
    for (int first = 0; first < share.rows(); first += chain) {
      float part[2] = {0.0f, 0.0f};
#pragma unroll 2
      for (int row = first; row < first + chain && row < share.rows(); ++row)
#pragma unroll
        for (int which = 0; which < 2; ++which) part[which] += device::shared_load<float>(at(which, row, column));
#pragma unroll
      for (int which = 0; which < 2; ++which) totals[which] += part[which];
    }
    use(column, totals[0], totals[1]);
  }
  device::block_sync();
}

}  // namespace fused_resnet
