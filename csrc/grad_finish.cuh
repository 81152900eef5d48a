// The backward's second phase: from partial sums to the gradients of parameters, and to what dx is multiplied from.
//
// Here, `finish_vectors` leaves dbeta and dgamma, and G = g^T (x - m); `grad_matrices.cuh` has the rest, behind a
// barrier. Processes that share statistics add up their sums between ("Several processes" in docs/design.md).
#pragma once

#include <grad_reduce.cuh>
#include <reductions.cuh>
#include <vectors.cuh>

namespace fused_resnet {

// Those of affine.cuh, for a branch; without a norm a is 1.
DEVICE float inverse_std(const Branch& branch, int channel) {
  return inverse_std(branch.norm, device::global_load(branch.var + channel));
}
DEVICE float norm_scale(const Branch& branch, int channel) {
  if (branch.statistics == Statistics::none) return 1.0f;
  return norm_scale(branch.norm, channel, device::global_load(branch.var + channel));
}

// d_i: the mean of this process's p less that of all processes'.
DEVICE float own_distance(const Branch& branch, const BranchGradient& own, int channel) {
  return device::global_load(own.own_mean + channel) - device::global_load(branch.mean + channel);
}

// db, of shared statistics times this process's share of the rows.
DEVICE float shared_sum(const TailGradient& gradient, const BranchGradient& own, int channel) {
  return own.shared_sum == nullptr ? device::global_load(gradient.sum + channel)
                                   : device::global_load(own.shared_sum + channel);
}

// S_i = db + dgamma d_i / std.
DEVICE float distant_sum(const TailGradient& gradient, int index, int channel) {
  const Branch& branch = gradient.tail.branches[index];
  const BranchGradient& own = gradient.branches[index];
  const float sum = shared_sum(gradient, own, channel);
  if (own.own_mean == nullptr) return sum;
  const float slope = device::global_load(own.dot + channel) * inverse_std(branch, channel);
  return device::fma(slope, own_distance(branch, own, channel), sum);
}

// db_i - S_i, the sum of dp / a over this process's rows: zero without others.
DEVICE float surplus(const TailGradient& gradient, int index, int channel) {
  return device::global_load(gradient.sum + channel) - distant_sum(gradient, index, channel);
}

// A lane's share of the sum of a channel's partial results, in double.
DEVICE double share_of_partials(const float* partial, const Partition& partition, int channels, int channel) {
  double sum = 0.0;
#pragma unroll 4
  for (int range = device::lane_index(); range < partition.ranges; range += device::warp_size)
    sum += device::global_load(partial + static_cast<std::int64_t>(range) * channels + channel);
  return sum;
}

// Stores the first `count` of four neighbours of a row: at once where all rows come 16 bytes at a time.
template <class Element>
DEVICE void store_four_elements(const Matrix& matrix, int channel, int input, int count, const float (&values)[4]) {
  Element* to = static_cast<Element*>(matrix.data) + channel * matrix.stride_c + input * matrix.stride_k;
  Channels<Element, 4> four;
#pragma unroll
  for (int i = 0; i < 4; ++i) four.at[i] = device::from_float<Element>(values[i]);
  if (matrix.vectorised) return device::global_store(reinterpret_cast<Channels<Element, 4>*>(to), four);
#pragma unroll
  for (int i = 0; i < 4; ++i)
    if (i < count) device::global_store(to + i * matrix.stride_k, four.at[i]);
}

template <class Element>
DEVICE void store_element(const Matrix& matrix, int channel, int input, float value) {
  auto* data = static_cast<Element*>(matrix.data);
  device::global_store(data + channel * matrix.stride_c + input * matrix.stride_k, device::from_float<Element>(value));
}

// A channel that several warps of a block share; lanes have four inputs of its row of G each. All of a block's warps
// take part, whether their channel exists or not.
struct SharedChannel {
  int channel, sharer, sharers;
  bool exists;

  DEVICE SharedChannel(const Tail& tail, int item, int of)
      : channel(item * (channel_group / of) + device::warp_index() / of),
        sharer(device::warp_index() % of),
        sharers(of),
        exists(channel < tail.channels) {}
  DEVICE bool leads() const { return exists && sharer == 0; }
};

// The sums over the ranges of a channel's partial products with a lane's four inputs from `input` on, for the leading
// warp. Where inputs are so few that half a warp has them all, halves share the ranges as well.
DEVICE void sum_of_inputs(const TailGradient& gradient, int index, const SharedChannel& own, int input, bool halves,
                          double (&sums)[4]) {
  const int tile = own.channel / tile_rows * gradient.branches[index].input_tiles + input / tile_columns;
  const int element = own.channel % tile_rows * tile_columns + input % tile_columns;
  const int left = gradient.tail.branches[index].x.channels - input;
  const int together = halves ? 2 * own.sharers : own.sharers;
  const int first = own.sharer + (halves ? device::lane_index() / 16 * own.sharers : 0);
  const std::int64_t product_floats =
      static_cast<std::int64_t>(gradient.branches[index].product_tiles) * (tile_rows * tile_columns);
  if (own.exists && left > 0)
    add_fours<9>(product_tile(gradient, index, 0, tile) + element, product_floats, first, gradient.partition.ranges,
                 together, left, true, sums);
  if (halves)
#pragma unroll
    for (double& sum : sums) sum += device::warp_exchange(sum, 16);
  if (own.sharers == 1) return;
  const auto slot = [](int warp, int i) -> SharedOffset {
    return 8 * ((i * block_threads / device::warp_size + warp) * device::warp_size + device::lane_index());
  };
  device::block_sync();
#pragma unroll
  for (int i = 0; i < 4; ++i) device::shared_store(slot(device::warp_index(), i), sums[i]);
  device::block_sync();
  if (own.sharer > 0) return;
#pragma unroll 1
  for (int sharer = 1; sharer < own.sharers; ++sharer)
#pragma unroll
    for (int i = 0; i < 4; ++i) sums[i] += device::shared_load<double>(slot(device::warp_index() + sharer, i));
}

// What elements of G are made of beside sums, for a lane's four inputs.
template <class Products>
struct InputTerms {
  Vector16<float> shift{}, mu{}, weights{};

  DEVICE InputTerms(const Branch& branch, const BranchGradient& own, int channel, int input, int count) {
    if (count <= 0) return;
    const bool aligned = branch.x.channels % 4 == 0;
    shift = load_four(own.shift + input, count, aligned);
    if (is_training(branch)) mu = load_four(branch.mu + input, count, aligned && is_aligned(branch.mu));
    weights = weights_of_four<Products>(branch, channel, input, count);
  }
};

// Makes elements of G, for a lane's four inputs, of sums of products, and adds to the sum that dgamma is made of. Norms
// that are not trained have dW = diag(a) g^T x, which is stored at once.
template <class Products>
DEVICE void finish_inputs(const TailGradient& gradient, int index, int channel, int input, double sum,
                          const double (&products)[4], const InputTerms<Products>& terms, double& dot) {
  const Branch& branch = gradient.tail.branches[index];
  const BranchGradient& own = gradient.branches[index];
  const int inputs = branch.x.channels, left = inputs - input;
  const bool training = is_training(branch);
  Vector16<float> g_x{};
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (i >= left) break;
    const double product =
        products[i] + sum * (static_cast<double>(terms.shift.values[i]) - static_cast<double>(terms.mu.values[i]));
    dot += static_cast<double>(terms.weights.values[i]) * product;
    g_x.values[i] = static_cast<float>(product);
  }
  if (training && own.product != nullptr)
    store_four(own.product + static_cast<std::int64_t>(channel) * inputs + input, g_x, left, inputs % 4 == 0);
  if (training || own.dweight.data == nullptr) return;
  const float scale = norm_scale(branch, channel);
#pragma unroll
  for (float& value : g_x.values) value *= scale;
  store_four_elements<typename Products::Element>(own.dweight, channel, input, left, g_x.values);
}

// A channel's row of G; for the leading warp's lanes, the sum over the row of what dgamma is made of. `sum`: a lane's
// share of the sum of g, which becomes the sum. All that is loaded for the first inputs is under way together.
template <class Products>
DEVICE double finish_row(const TailGradient& gradient, int index, const SharedChannel& shared, double& sum) {
  const Branch& branch = gradient.tail.branches[index];
  const BranchGradient& own = gradient.branches[index];
  const bool halves = branch.x.channels <= tile_columns / 2;
  double dot = 0.0;
#pragma unroll 1
  for (int from = 0; from < branch.x.channels; from += tile_columns) {
    const int input = from + 4 * (halves ? device::lane_index() % 16 : device::lane_index());
    const bool writes = shared.leads() && (!halves || device::lane_index() < 16) && input < branch.x.channels;
    const InputTerms<Products> terms(branch, own, shared.channel, input, writes ? branch.x.channels - input : 0);
    double products[4] = {};
    sum_of_inputs(gradient, index, shared, input, halves, products);
    if (from == 0) sum = warp_sum(sum);
    if (writes) finish_inputs<Products>(gradient, index, shared.channel, input, sum, products, terms, dot);
  }
  dot = warp_sum(dot);
  if (!shared.leads()) return 0.0;
  if (own.own_mean != nullptr) dot += own_distance(branch, own, shared.channel) * sum;
  // sum g (p - mean): g^T x W^T has p whole.
  return is_training(branch) || branch.statistics == Statistics::none
             ? dot
             : dot - device::global_load(branch.mean + shared.channel) * sum;
}

// A channel's vectors, from the sum of its g and the one that dgamma is made of.
template <class Element>
DEVICE void store_vectors(const TailGradient& gradient, int index, int channel, double sum, double dot) {
  const Branch& branch = gradient.tail.branches[index];
  const BranchGradient& own = gradient.branches[index];
  if (index == gradient.leader) device::global_store(gradient.sum + channel, static_cast<float>(sum));
  if (own.shared_sum != nullptr) device::global_store(own.shared_sum + channel, static_cast<float>(sum));
  const ElementType type = branch.norm.type;
  if (branch.statistics != Statistics::none) {
    const float dgamma = static_cast<float>(dot) * inverse_std(branch, channel);
    if (own.dot != nullptr) device::global_store(own.dot + channel, dgamma);
    if (own.slope != nullptr)
      device::global_store(own.slope + channel, -norm_scale(branch, channel) * inverse_std(branch, channel) /
                                                    static_cast<float>(gradient.tail.rows));
    if (own.dgamma != nullptr) store_vector_element(own.dgamma, type, channel, dgamma);
  }
  if (own.dbeta != nullptr) store_vector_element(own.dbeta, type, channel, static_cast<float>(sum));
  if (own.dbias == nullptr) return;
  // Ahead of a training norm a bias changes nothing.
  const float dbias = is_training(branch) ? 0.0f : norm_scale(branch, channel) * static_cast<float>(sum);
  device::global_store(static_cast<Element*>(own.dbias) + channel, device::from_float<Element>(dbias));
}

template <class Products, bool projections>
DEVICE void finish_channel(const TailGradient& gradient, int index, const SharedChannel& shared) {
  const BranchGradient& own = gradient.branches[index];
  const int channels = gradient.tail.channels;
  double sum = 0.0, dot = 0.0;
  if (shared.leads()) {
    sum = share_of_partials(gradient.partial_sum, gradient.partition, channels, shared.channel);
    if (own.partial_dot != nullptr)
      dot = share_of_partials(own.partial_dot, gradient.partition, channels, shared.channel);
  }
  const bool has_row = projections && own.reduction == Reduction::product;
  if (!has_row) {
    sum = warp_sum(sum);
    dot = warp_sum(dot);
  }
  if constexpr (projections)
    if (has_row) dot = finish_row<Products>(gradient, index, shared, sum);
  if (shared.leads() && device::lane_index() == 0)
    store_vectors<typename Products::Element>(gradient, index, shared.channel, sum, dot);
}

template <class Products, bool projections>
DEVICE void finish_vectors(const TailGradient& gradient) {
  int item = device::block_index();
#pragma unroll 1
  for (int index = 0; index < 2; ++index) {
    const BranchGradient& own = gradient.branches[index];
    const int sharers = channel_sharers(gradient.tail, own), items = vector_items(gradient.tail, own);
#pragma unroll 1
    for (; item < items; item += device::grid_size())
      finish_channel<Products, projections>(gradient, index, SharedChannel(gradient.tail, item, sharers));
    item -= items;
  }
}

}  // namespace fused_resnet
