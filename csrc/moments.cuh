// The phase that reads the inputs of training norms once and leaves partial sums, one for each range of rows.
//
//   columns   mean and sum of squared distances of a direct source's channels
//   gram      (x - shift)^T (x - shift) of a projection's input, 128 x 128 channels an item, on and below the diagonal;
//             the items on the diagonal also sum the columns
//
// Sums are float32 over a bounded number of rows; `finish.cuh` combines them in double, in the order of the ranges. All
// are taken about a shift near the mean, so that little cancels where the mean is large against the spread.
#pragma once

#include <apply.cuh>
#include <gram.cuh>
#include <streamed_sums.cuh>

namespace fused_resnet {

// Writes a channel's partial mean and squared distances of a range.
DEVICE void store_partial(const Tail& tail, const Branch& branch, int range, int channel, float mean, float m2) {
  const std::int64_t to = static_cast<std::int64_t>(range) * tail.channels + channel;
  device::global_store(branch.partial_mean + to, mean);
  device::global_store(branch.partial_m2 + to, m2 < 0.0f ? 0.0f : m2);
}

// Sums a pass of the columns of the tile that begins at channel `first`; shifts are in scratch memory.
template <class Element, int V, bool vectorised>
DEVICE void columns_pass(const Tail& tail, const Branch& branch, int range, int first, int pass,
                         const Share<V, vectorised>& share) {
  constexpr int batch = vectorised ? 8 : 2;
  const RowRange rows(tail, branch.partition, range);
  const int column = pass + share.column();
  const StreamedColumn<Element, V, vectorised> x(branch.x, true, first + column, tail.channels);
  float shifts[V], sums[2][V] = {};
#pragma unroll
  for (int i = 0; i < V; ++i) shifts[i] = device::shared_load<float>(scratch(column + i));
  if (x.channel != nullptr)
    for_each_batch<batch>(rows, share, [&](auto row) {
      Loaded<Element, V, vectorised> loaded[batch];
#pragma unroll
      for (int j = 0; j < batch; ++j) loaded[j] = x.load(tail, row(j), row(j) < rows.end);
#pragma unroll
      for (int j = 0; j < batch; ++j) {
        if (row(j) >= rows.end) break;
        float values[V];
        float_values(loaded[j].values(false).at, 0, values);
#pragma unroll
        for (int i = 0; i < V; ++i) {
          const float value = values[i] - shifts[i];
          sums[0][i] += value;
          sums[1][i] = device::fma(value, value, sums[1][i]);
        }
      }
    });
  join_streamed(share, sums, [&](int of_pass, float sum, float squares) {
    const int channel = first + pass + of_pass;
    if (channel >= tail.channels) return;
    const float mean = sum / static_cast<float>(rows.end - rows.begin);
    const float shift = device::shared_load<float>(scratch(pass + of_pass));
    store_partial(tail, branch, range, channel, shift + mean, device::fma(-sum, mean, squares));
  });
}

template <class Products>
DEVICE void columns_item(const Tail& tail, const Branch& branch, int item) {
  using Element = typename Products::Element;
  const int tiles = tiles_of(tail.channels, tile_columns);
  const int range = item / tiles;
  const int first = (item - range * tiles) * tile_columns, channel = first + device::thread_index();
  if (device::thread_index() < tile_columns)
    device::shared_store(scratch(device::thread_index()),
                         channel < tail.channels ? channel_shift<Products>(tail, branch.x, channel) : 0.0f);
  device::block_sync();
  with_share<Element>(branch.x.vectorised, branch.x.stride_c == 1, tail.channels, [&](auto share) {
#pragma unroll 1
    for (int pass = 0; pass < tile_columns && first + pass < tail.channels; pass += share.columns())
      columns_pass<Element>(tail, branch, range, first, pass, share);
  });
}

// Counts the batch, and leaves its weight in the running statistics for `finish`.
DEVICE void count_batch(const Branch& branch) {
  const Norm& norm = branch.norm;
  float momentum = norm.momentum;
  if (norm.num_batches_tracked != nullptr) {
    const std::int64_t batches = device::global_load(norm.num_batches_tracked) + 1;
    device::global_store(norm.num_batches_tracked, batches);
    if (norm.cumulative) momentum = 1.0f / static_cast<float>(batches);
  }
  device::global_store(branch.momentum, momentum);
}

template <class Products>
DEVICE void moments_item(const Tail& tail, const Branch& branch, int item) {
  if (branch.statistics == Statistics::gram) return gram_item<Products>(tail, branch, item);
  columns_item<Products>(tail, branch, item);
}

template <class Products>
DEVICE void moments(const Tail& tail) {
  int item = device::block_index();
#pragma unroll 1
  for (int index = 0; index < 2; ++index) {
    const Branch& branch = tail.branches[index];
    if (!is_training(branch)) continue;
    if (device::block_index() == 0 && device::thread_index() == 0) count_batch(branch);
    const int items = moments_items(tail, branch);
    // An item has a barrier of its own between its shifts, which nobody reads any more, and whatever else it stores.
    for (; item < items; item += device::grid_size()) moments_item<Products>(tail, branch, item);
    item -= items;
  }
}

}  // namespace fused_resnet
