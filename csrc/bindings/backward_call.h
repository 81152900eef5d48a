// One backward call: checked arguments, a workspace, the filled `TailGradient`, and its launches.
#pragma once

#include <algorithm>

#include <bindings/call.h>
#include <bindings/gradient_arguments.h>
#include <gradient_items.h>

namespace fused_resnet::bindings {

// The finish phase writes vectors, and then what is made from these.
enum class BackwardStep { input, reduce, vectors, operands, apply };

class BackwardCall : Call<TailGradient, BackwardStep> {
 public:
  explicit BackwardCall(GradientArguments arguments) : Call(arguments.dy), arguments_(std::move(arguments)) {
    GradientChecks(arguments_).run();
    const int shared = arguments_.main.shares_sums() + (arguments_.shortcut && arguments_.shortcut->shares_sums());
    sums_ = allocate({shared, 2, arguments_.dy.size(1)});
    if (arguments_.dy.numel() == 0) {
      sums_.zero_();
      return;
    }
    fill_output_gradient();
    for_each_branch([this](auto&&... of) { fill_inputs(of...); });
    for_each_branch([this](auto&&... of) { fill_results(of...); });
    fill_partitions();
    fill_masked_gradient();
    for_each_branch([this](auto&&... of) { fill_workspace(of...); });
    for_each_branch([this](auto&&... of) { fill_vectorised(of...); });
    gradient_.joined_dx = dx_fits_one_tile(gradient_);
    gradient_.apply = apply_work(gradient_);
    gradient_.quadratics = quadratic_work(gradient_);
    gradient_.corrections = correction_work(gradient_);
    gradient_.foldings = row_work(gradient_, is_folded);
    gradient_.roundings = row_work(gradient_, has_quadratic);
  }

  // Queues the phase on the current stream of dy's device.
  void run(GradientPhase phase) const {
    if (arguments_.dy.numel() == 0) return;
    launch_on_device(steps(phase), [&](const std::vector<device::Buffer>& buffers, device::Stream stream) {
      launch_backward(math(arguments_.tf32), phase, gradient_, buffers, stream);
    });
  }

  // The launch of all phases; dy must not be empty.
  Replay<TailGradient> replay(const std::vector<at::Tensor>& given) const {
    return replay_of(steps(GradientPhase::all), arguments_.tf32, given);
  }

  // What processes that share a norm's statistics add up between the phases `summarise` and `complete`.
  at::Tensor sums() const { return sums_; }

 private:
  using Arguments = BranchGradientArguments;
  using Step = BackwardStep;

  static Steps steps(GradientPhase phase) {
    switch (phase) {
      case GradientPhase::reduce:
        return {Step::reduce, Step::reduce};
      case GradientPhase::finish:
        return {Step::vectors, Step::operands};
      case GradientPhase::apply:
        return {Step::apply, Step::apply};
      case GradientPhase::summarise:
        return {Step::reduce, Step::vectors};
      case GradientPhase::complete:
        return {Step::operands, Step::apply};
      default:
        return {Step::reduce, Step::apply};
    }
  }

  // Calls `fill(name, arguments, branch, gradients)` for each branch that there is.
  template <class Fill>
  void for_each_branch(Fill fill) {
    fill("main", arguments_.main, gradient_.tail.branches[0], gradient_.branches[0]);
    if (arguments_.shortcut) fill("shortcut", *arguments_.shortcut, gradient_.tail.branches[1], gradient_.branches[1]);
  }

  void fill_output_gradient() {
    const at::Tensor& dy = arguments_.dy;
    Tail& tail = gradient_.tail;
    set_pixels(tail, dy);
    tail.relu = arguments_.relu;
    gradient_.dy = activations(dy, 1, dy.size(2), dy.size(3));
    use("dy", gradient_.dy.data, dy, Step::input);
    gradient_.masks_input = arguments_.masks_input();
    if (!arguments_.mask) return;
    tail.mask = mask(*arguments_.mask);
    use("mask", tail.mask.bytes, *arguments_.mask, Step::input);
  }

  void fill_inputs(const Name& name, const Arguments& from, Branch& to, BranchGradient& own) {
    to.source = source_of(from.source);
    to.channels_before = static_cast<int>(from.channels_before);
    own.reduction = reduction_of(from);
    own.has_vectors = own.reduction != Reduction::none || from.dbeta || from.dbias;
    if (from.x) {
      to.x = activations(*from.x, from.stride, gradient_.tail.height, gradient_.tail.width);
      use(name + ".x", to.x.data, *from.x, Step::input);
    }
    if (from.weight) {
      to.weight = matrix(*from.weight);
      use(name + ".weight", to.weight.data, *from.weight, Step::input);
    }
    if (from.norm) fill_norm(name, from, to, own);
    if (to.source != Source::projection) return;
    own.input_tiles = tiles_of(to.x.channels, tile_columns);
    own.product_tiles = column_tiles(gradient_) * own.input_tiles;
  }

  static Reduction reduction_of(const Arguments& branch) {
    const bool dgamma = branch.dgamma || (branch.training() && branch.inner());
    if (branch.source == "direct") return branch.norm && dgamma ? Reduction::dot : Reduction::none;
    return dgamma || branch.dweight ? Reduction::product : Reduction::none;
  }

  void fill_norm(const Name& name, const Arguments& from, Branch& to, BranchGradient& own) {
    const NormGradientArguments& norm = *from.norm;
    to.statistics = from.source == "direct" ? Statistics::columns : Statistics::gram;
    if (!norm.training) to.statistics = Statistics::running;
    to.norm.eps = static_cast<float>(norm.eps);
    for (const OptionalTensor* vector : {&from.dgamma, &from.dbeta, &norm.weight, &norm.bias})
      if (*vector) to.norm.type = element_type((*vector)->scalar_type());
    use_input(name + ".norm.weight", to.norm.weight, norm.weight);
    use_input(name + ".norm.bias", to.norm.bias, norm.bias);
    use_input(name + ".mean", to.mean, norm.mean);
    use_input(name + ".var", to.var, norm.var);
    use_input(name + ".mu", to.mu, norm.mu);
    use_input(name + ".cov", to.cov, norm.cov);
    use_input(name + ".own_mean", own.own_mean, norm.own_mean);
  }

  void fill_results(const Name& name, const Arguments& from, Branch& to, BranchGradient& own) {
    const auto result = [&](const char* part, void*& pointer, const OptionalTensor& tensor) {
      if (tensor) use(name + part, pointer, *tensor, Step::vectors);
    };
    result(".dbias", own.dbias, from.dbias);
    result(".dgamma", own.dgamma, from.dgamma);
    result(".dbeta", own.dbeta, from.dbeta);
    if (from.dweight) {
      own.dweight = matrix(*from.dweight);
      use(name + ".dweight", own.dweight.data, *from.dweight, from.training() ? Step::operands : Step::vectors);
    }
    if (!from.dx || from.plain()) return;
    const at::Tensor& dx = *from.dx;
    own.dx = activations(dx, from.stride, gradient_.tail.height, gradient_.tail.width);
    const std::int64_t height = dx.size(2), width = dx.size(3);
    const std::int64_t stride = std::min(from.stride, std::max(height, width));  // a larger one is no different
    own.cell = {static_cast<int>(stride), static_cast<int>(height), static_cast<int>(width), dx.stride(2),
                dx.stride(3)};
    use(name + ".dx", own.dx.data, dx, Step::apply);
    if (to.source == Source::projection) fill_factors(name, from, to, own);
  }

  // What dx of a projection is multiplied from.
  void fill_factors(const Name& name, const Arguments& from, Branch& to, BranchGradient& own) {
    const int inputs = to.x.channels;
    const bool rounds = math(arguments_.tf32) != Math::float32;
    // With many outputs and few inputs, what follows the norm's input is small in dx, and rounding would show.
    const bool many = gradient_.tail.channels >= 8 * inputs;
    use_factor(name + ".folded", own.folded, inputs, gradient_.tail.channels, rounds && many && from.gram());
    use(name + ".offset", own.offset, allocate({inputs}), Step::operands);
    if (!from.gram()) return;
    use_factor(name + ".quadratic", own.quadratic, inputs, inputs, rounds);
    use(name + ".slope", own.slope, allocate({gradient_.tail.channels}), Step::vectors);
    use(name + ".quadratic_exact", own.quadratic_exact,
        allocate({quadratic_parts(gradient_.tail, inputs), inputs, inputs}), Step::operands);
  }

  void use_factor(const Name& name, Factor& to, int rows, int depth, bool remainder) {
    use_rows_of_vectors(name, to.matrix, rows, depth);
    if (remainder) use_rows_of_vectors(name + "_remainder", to.remainder, rows, depth);
    use(name + "_scale", to.scale, allocate({rows}), Step::operands);
  }

  // (rows, depth), rows a whole number of vectors apart.
  void use_rows_of_vectors(const Name& name, Matrix& to, int rows, int depth) {
    const int pitch = tiles_of(depth, vector()) * vector();
    use(name, to.data, allocate({rows, pitch}, arguments_.dy.scalar_type()), Step::operands);
    to.stride_c = pitch;
    to.stride_k = 1;
    to.vectorised = true;
  }

  void fill_partitions() {
    const auto has = [this](Reduction reduction) {
      return gradient_.branches[0].reduction == reduction || gradient_.branches[1].reduction == reduction;
    };
    const bool nothing =
        gradient_.branches[0].reduction == Reduction::none && gradient_.branches[1].reduction == Reduction::none;
    const bool vectors = gradient_.branches[0].has_vectors || gradient_.branches[1].has_vectors;
    if (nothing && (vectors || needs_masked_gradient())) gradient_.branches[0].reduction = Reduction::incoming;
    gradient_.leader = gradient_.branches[0].reduction == Reduction::none ? 1 : 0;
    gradient_.joined = products_fit_one_tile(gradient_);
    const int tiles = reduce_work(gradient_).tiles;
    if (tiles == 0) return;
    gradient_.partition = partition_rows(gradient_.tail, tiles);
    gradient_.reduce = reduce_work(gradient_);
    use("partial_sum", gradient_.partial_sum, allocate({gradient_.partition.ranges, gradient_.tail.channels}),
        Step::reduce);
    if (vectors) use("sum", gradient_.sum, allocate({gradient_.tail.channels}), Step::vectors);
  }

  // Where it is an identity's gradient, and where several columns of tiles of dx would have to mask it.
  bool needs_masked_gradient() const {
    if (!gradient_.tail.relu || gradient_.masks_input) return false;
    const auto reads_often = [](const Arguments& branch) {
      return branch.source == "projection" && branch.dx && branch.x->size(1) > tile_columns;
    };
    return identity_gradient() != nullptr || reads_often(arguments_.main) ||
           (arguments_.shortcut && reads_often(*arguments_.shortcut));
  }

  // Where an identity's gradient is asked for, it is g.
  const at::Tensor* identity_gradient() const {
    for (const Arguments* branch : {&arguments_.main, arguments_.shortcut ? &*arguments_.shortcut : nullptr})
      if (branch != nullptr && branch->plain() && branch->dx) return &*branch->dx;
    return nullptr;
  }

  void fill_masked_gradient() {
    const Tail& tail = gradient_.tail;
    gradient_.vectorised = gradient_.dy.vectorised && (!gradient_.masks_input || tail.branches[0].x.vectorised);
    gradient_.writes_g = needs_masked_gradient();
    if (!gradient_.writes_g) {
      gradient_.g = gradient_.dy;
      use("dy", gradient_.g.data, arguments_.dy, Step::input);
      return;
    }
    if (const at::Tensor* dx = identity_gradient()) {
      gradient_.g = activations(*dx, 1, tail.height, tail.width);
      use("g", gradient_.g.data, *dx, Step::reduce);
    } else {
      use_rows("g", gradient_.g, tail.rows, tail.channels, Step::reduce);
    }
    gradient_.vectorised = gradient_.vectorised && gradient_.g.vectorised;
  }

  void fill_workspace(const Name& name, const Arguments& from, Branch& to, BranchGradient& own) {
    const std::int64_t ranges = gradient_.partition.ranges, channels = gradient_.tail.channels;
    if (own.reduction == Reduction::dot)
      use(name + ".partial_dot", own.partial_dot, allocate({ranges, channels}), Step::reduce);
    if (own.reduction == Reduction::product) {
      fill_product(name, to, own);
      if (is_corrected(to, own))
        use(name + ".product", own.product, allocate({channels, to.x.channels}), Step::vectors);
    }
    if (from.training() && from.inner()) fill_sums(name, from, own);
  }

  // The sums that the gradient of the pre-norm tensor takes.
  void fill_sums(const Name& name, const Arguments& from, BranchGradient& own) {
    if (!from.shares_sums()) return use(name + ".dot", own.dot, allocate({gradient_.tail.channels}), Step::vectors);
    const at::Tensor sums = sums_[&from == &arguments_.main ? 0 : sums_.size(0) - 1];
    use(name + ".shared_sum", own.shared_sum, sums[0], Step::vectors);
    use(name + ".dot", own.dot, sums[1], Step::vectors);
  }

  void fill_product(const Name& name, const Branch& to, BranchGradient& own) {
    const std::int64_t ranges = gradient_.partition.ranges;
    use(name + ".partial_product", own.partial_product, allocate({ranges, own.product_tiles, tile_rows, tile_columns}),
        Step::reduce);
    use(name + ".shift", own.shift, allocate({to.x.channels}), Step::reduce);
  }

  void fill_vectorised(const Name&, const Arguments& from, Branch& to, BranchGradient& own) {
    if (own.dx.data == nullptr) return;
    const at::Tensor& dx = *from.dx;
    const bool g = gradient_.g.vectorised,
               out = own.dx.vectorised && activations(dx, 1, dx.size(2), dx.size(3)).vectorised;
    own.vectorised = out;
    const bool reads_input = is_training(to) || gradient_.masks_input;
    if (to.source == Source::direct) own.vectorised = out && g && (!reads_input || to.x.vectorised);
    if (to.source == Source::zero_pad) own.vectorised = out && g && to.channels_before % vector() == 0;
  }

  GradientArguments arguments_;
  at::Tensor sums_;
  TailGradient& gradient_ = parameters_;
};

}  // namespace fused_resnet::bindings
