// One forward call: checked arguments, a workspace, the filled `Tail`, and its launches.
#pragma once

#include <bindings/arguments.h>
#include <bindings/call.h>

namespace fused_resnet::bindings {

// What a norm's statistics were; undefined tensors where there are none.
struct NormStatistics {
  at::Tensor mean, var, mu, cov;
};

enum class ForwardStep { input, moments, finish, apply };

class ForwardCall : Call<Tail, ForwardStep> {
 public:
  explicit ForwardCall(TailArguments arguments) : Call(arguments.y), arguments_(std::move(arguments)) {
    TailChecks(arguments_).run();
    if (arguments_.y.numel() == 0) return;
    fill_output();
    const auto is_projection = [](const BranchArguments& branch) { return branch.source == "projection"; };
    const bool swapped = arguments_.shortcut && is_projection(*arguments_.shortcut) && !is_projection(arguments_.main);
    fill_branch("main", arguments_.main, swapped ? 1 : 0, statistics_[0]);
    if (arguments_.shortcut) fill_branch("shortcut", *arguments_.shortcut, swapped ? 0 : 1, statistics_[1]);
    // The work of both branches is shared out together.
    fill_workspace("main", tail_.branches[swapped ? 1 : 0], statistics_[0]);
    fill_workspace("shortcut", tail_.branches[swapped ? 0 : 1], statistics_[1]);
    tail_.vectorised = tail_.y.vectorised;
    for (const Branch& branch : tail_.branches) tail_.vectorised = tail_.vectorised && read_in_vectors(branch);
  }

  // Queues the phase on the current stream of y's device.
  void run(Phase phase) const {
    if (arguments_.y.numel() == 0) return;
    launch_on_device(steps(phase), [&](const std::vector<device::Buffer>& buffers, device::Stream stream) {
      launch_forward(math(arguments_.tf32), phase, tail_, buffers, stream);
    });
  }

  // The launch of all phases; y must not be empty.
  Replay<Tail> replay(const std::vector<at::Tensor>& given) const {
    return replay_of(steps(Phase::all), arguments_.tf32, given);
  }

  NormStatistics statistics(int branch) const {
    require(branch == 0 || branch == 1, "branch", branch, "0 (main) or 1 (shortcut)");
    return statistics_[branch];
  }

 private:
  using Step = ForwardStep;

  static Steps steps(Phase phase) {
    switch (phase) {
      case Phase::moments:
        return {Step::moments, Step::moments};
      case Phase::finish:
        return {Step::finish, Step::finish};
      case Phase::apply:
        return {Step::apply, Step::apply};
      case Phase::summarise:
        return {Step::moments, Step::finish};
      default:
        return {Step::moments, Step::apply};
    }
  }

  static Statistics statistics_of(const BranchArguments& branch) {
    if (!branch.norm) return Statistics::none;
    if (!branch.norm->training) return Statistics::running;
    return branch.source == "direct" ? Statistics::columns : Statistics::gram;
  }

  void fill_output() {
    const at::Tensor& y = arguments_.y;
    set_pixels(tail_, y);
    tail_.relu = arguments_.relu;
    tail_.y = activations(y, 1, y.size(2), y.size(3));
    use("y", tail_.y.data, y, Step::apply);
    if (!arguments_.mask) return;
    tail_.mask = mask(*arguments_.mask);
    use("mask", tail_.mask.bytes, *arguments_.mask, Step::apply);
  }

  void fill_branch(const Name& name, const BranchArguments& from, int index, NormStatistics& statistics) {
    Branch& to = tail_.branches[index];
    to.source = source_of(from.source);
    to.x = activations(from.x, from.stride, tail_.height, tail_.width);
    use(name + ".x", to.x.data, from.x, Step::input);
    to.channels_before = static_cast<int>(from.channels_before);
    // x's vectors have to begin where y's do.
    to.x.vectorised = to.x.vectorised && to.channels_before % vector() == 0;
    if (to.source == Source::projection) {
      to.weight = matrix(*from.weight);
      use(name + ".weight", to.weight.data, *from.weight, Step::input);
    }
    use_input(name + ".bias", to.bias, from.bias);
    if (!from.norm) return;
    fill_norm(name + ".norm", *from.norm, to.norm);
    to.statistics = statistics_of(from);
    if (is_training(to)) {
      fill_statistics(name, to, statistics, Step::finish);
    } else if (from.norm->keep) {
      fill_statistics(name, to, statistics, Step::apply);
    }
  }

  void fill_norm(const Name& name, const NormArguments& from, Norm& to) {
    to.momentum = static_cast<float>(from.momentum.value_or(0.0));
    to.cumulative = !from.momentum.has_value();
    to.eps = static_cast<float>(from.eps);
    for (const OptionalTensor* vector : {&from.weight, &from.bias, &from.running_mean})
      if (*vector) to.type = element_type((*vector)->scalar_type());
    use_input(name + ".weight", to.weight, from.weight);
    use_input(name + ".bias", to.bias, from.bias);
    if (!from.training) {
      use_input(name + ".running_mean", to.running_mean, from.running_mean);
      use_input(name + ".running_var", to.running_var, from.running_var);
      return;
    }
    if (from.running_mean) {
      use(name + ".running_mean", to.running_mean, *from.running_mean, Step::finish, true);
      use(name + ".running_var", to.running_var, *from.running_var, Step::finish, true);
    }
    if (from.num_batches_tracked)
      use(name + ".num_batches_tracked", to.num_batches_tracked, *from.num_batches_tracked, Step::moments, true);
  }

  void fill_statistics(const Name& name, Branch& to, NormStatistics& statistics, Step writer) {
    statistics.mean = allocate({tail_.channels});
    statistics.var = allocate({tail_.channels});
    use(name + ".mean", to.mean, statistics.mean, writer);
    use(name + ".var", to.var, statistics.var, writer);
  }

  void fill_workspace(const Name& name, Branch& to, NormStatistics& statistics) {
    if (!is_training(to)) return;
    const bool gram = to.statistics == Statistics::gram;
    to.partition = partition_rows(tail_, moments_tiles(tail_));
    const std::int64_t ranges = to.partition.ranges, channels = tail_.channels, inputs = to.x.channels;
    use(name + ".momentum", to.momentum, allocate({1}), Step::moments);
    if (!gram) {
      use(name + ".partial_mean", to.partial_mean, allocate({ranges, channels}), Step::moments);
      use(name + ".partial_m2", to.partial_m2, allocate({ranges, channels}), Step::moments);
      return;
    }
    statistics.mu = allocate({inputs});
    statistics.cov = allocate({inputs, inputs});
    use(name + ".mu", to.mu, statistics.mu, Step::finish);
    use(name + ".cov", to.cov, statistics.cov, Step::finish);
    use(name + ".partial_gram", to.partial_gram, allocate({ranges, tile_pairs(to.x.channels), tile_rows, tile_columns}),
        Step::moments);
    use(name + ".partial_sum", to.partial_sum, allocate({ranges, inputs}), Step::moments);
    use(name + ".shift", to.shift, allocate({inputs}), Step::moments);
    const int parts = statistics_parts(to);
    if (parts > 1)
      use(name + ".partial_statistics", to.partial_statistics, allocate({parts, 2, channels}), Step::finish);
  }

  // Where y is written, the branch is read 16 bytes at once, or not at all.
  bool read_in_vectors(const Branch& branch) const {
    return branch.source == Source::none || is_product(branch) || branch.x.vectorised;
  }

  TailArguments arguments_;
  Tail& tail_ = parameters_;
  NormStatistics statistics_[2];
};

}  // namespace fused_resnet::bindings
