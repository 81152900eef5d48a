// What the backward of a tail needs, as Python passes it, and its checks.
#pragma once

#include <bindings/call.h>

namespace fused_resnet::bindings {

// A norm with the statistics that the forward took: `mu` and `cov` are those of a projection's input, where it trains.
// Where several processes share the statistics, `mean` and `var` are those of all, `own_mean` is that of this call's
// rows, as are `mu` and `cov`. `bias` is read where the norm is all that a relu is of.
struct NormGradientArguments {
  OptionalTensor weight, bias;
  double eps;
  bool training;
  OptionalTensor mean, var, mu, cov;
  bool shared;
  OptionalTensor own_mean;
};

// `x` and `weight` are None where the source does not need them; gradients are None where nobody asks.
struct BranchGradientArguments {
  std::string source;  // "direct", "zero_pad" or "projection"
  OptionalTensor x, weight;
  std::int64_t stride;
  std::int64_t channels_before;
  std::optional<NormGradientArguments> norm;
  OptionalTensor dx, dweight, dbias, dgamma, dbeta;

  bool training() const { return norm && norm->training; }
  bool gram() const { return source == "projection" && training(); }
  // The gradient of the pre-norm tensor, or what it would be, is needed.
  bool inner() const { return dx.has_value() || dweight.has_value(); }
  bool shares_sums() const { return norm && norm->shared && inner(); }
  bool plain() const { return source == "direct" && !norm; }
};

struct GradientArguments {
  BranchGradientArguments main;
  std::optional<BranchGradientArguments> shortcut;
  at::Tensor dy;
  OptionalTensor mask;  // of the relu, unless the source masks
  bool relu;
  bool tf32;

  // Whether the relu is of one direct source's norm alone (`TailGradient::masks_input`).
  bool masks_input() const { return relu && !shortcut && main.source == "direct" && main.norm; }
};

class GradientChecks {
 public:
  explicit GradientChecks(const GradientArguments& tail)
      : tail_(tail), device_(tail.dy.device()), type_(tail.dy.scalar_type()), channels_(0) {}

  void run() {
    check_output_gradient();
    check_branch("main", tail_.main);
    if (tail_.shortcut) {
      const auto is_identity = [](const BranchGradientArguments& branch) { return branch.plain() && branch.dx; };
      check_branch("shortcut", *tail_.shortcut);
      require(!is_identity(tail_.main) || !is_identity(*tail_.shortcut), "shortcut.dx", "given", "None: it is main.dx");
    }
    check_aliasing(written_, read_);
  }

 private:
  void check_output_gradient() {
    const at::Tensor& dy = tail_.dy;
    check_activations("dy", dy, device_, type_);
    channels_ = dy.size(1);
    read("dy", dy);
    const bool wanted = tail_.relu && !tail_.masks_input();
    require(tail_.mask.has_value() == wanted, "mask", tail_.mask ? "given" : "None",
            wanted ? "a tensor" : "None without a relu, or where main's norm is all that the relu is of");
    if (!wanted) return;
    check_mask("mask", *tail_.mask, dy);
    read("mask", *tail_.mask);
  }

  void read(const Name& name, const at::Tensor& t) { read_.emplace_back(name, t); }
  void write(const Name& name, const at::Tensor& t) { written_.emplace_back(name, t); }

  void check_branch(const Name& name, const BranchGradientArguments& branch) {
    const bool direct = branch.source == "direct", projection = branch.source == "projection";
    require(direct || projection || branch.source == "zero_pad", name + ".source", branch.source,
            "direct, zero_pad or projection");
    require(branch.stride >= 1 && (branch.stride == 1 || !direct), name + ".stride", branch.stride,
            direct ? "1 for a direct source" : "at least 1");
    require(!branch.norm || branch.source != "zero_pad", name + ".norm", "given", "None for a zero-padded source");
    require(branch.weight.has_value() == projection, name + ".weight", branch.weight ? "given" : "None",
            projection ? "a tensor" : "None");
    require(branch.x || !(projection || branch.norm), name + ".x", "None", "a tensor");
    if (branch.x) {
      check_input(name + ".x", *branch.x, branch);
      read(name + ".x", *branch.x);
    }
    if (branch.dx) check_input_gradient(name, branch);
    if (projection) check_weight(name, branch);
    if (branch.norm) check_norm(name + ".norm", branch, *branch.norm);
    check_vectors(name, branch);
  }

  // Its strided pixels have to be those of dy.
  void check_input(const Name& name, const at::Tensor& x, const BranchGradientArguments& branch) {
    const at::Tensor& dy = tail_.dy;
    const std::int64_t s = branch.stride;
    check_tensor(name, x, device_, type_);
    require(x.dim() == 4, name, Shape{x.sizes()}, "of four dimensions");
    const auto pixels = [s](std::int64_t size) { return size / s + (size % s != 0); };
    require(x.size(0) == dy.size(0) && pixels(x.size(2)) == dy.size(2) && pixels(x.size(3)) == dy.size(3), name,
            Shape{x.sizes()}, Both{"such that its strided pixels are those of dy, ", Shape{dy.sizes()}});
    if (branch.source == "direct") require(x.size(1) == channels_, name, Shape{x.sizes()}, "as many channels as dy");
    if (branch.source == "zero_pad")
      require(branch.channels_before >= 0 && branch.channels_before <= channels_ - x.size(1), name + "'s channels",
              x.size(1), "such that they and channels_before lie within dy's");
  }

  void check_input_gradient(const Name& name, const BranchGradientArguments& branch) {
    const at::Tensor& dx = *branch.dx;
    check_input(name + ".dx", dx, branch);
    if (branch.x) check_sizes(name + ".dx", dx, branch.x->sizes());
    check_dense(name + ".dx", dx);
    constexpr std::int64_t most = (1ll << 31) - 1;
    require(dx.size(2) <= most && dx.size(3) <= most, name + ".dx", Shape{dx.sizes()},
            "of at most 2^31 - 1 lines and columns");
    require(!branch.plain() || tail_.relu, name + ".dx", "given", "None: without a relu it is dy");
    write(name + ".dx", dx);
  }

  void check_weight(const Name& name, const BranchGradientArguments& branch) {
    const std::int64_t inputs = branch.x->size(1);
    require(inputs > 0, name + ".x", Shape{branch.x->sizes()}, "at least one channel");
    check_tensor(name + ".weight", *branch.weight, device_, type_);
    check_sizes(name + ".weight", *branch.weight, {channels_, inputs, 1, 1});
    read(name + ".weight", *branch.weight);
    if (!branch.dweight) return;
    check_tensor(name + ".dweight", *branch.dweight, device_, type_);
    check_sizes(name + ".dweight", *branch.dweight, branch.weight->sizes());
    check_dense(name + ".dweight", *branch.dweight);
    write(name + ".dweight", *branch.dweight);
  }

  void check_norm(const Name& name, const BranchGradientArguments& branch, const NormGradientArguments& norm) {
    if (norm.weight) check_read_vector(name + ".weight", *norm.weight, type_, channels_);
    if (norm.bias) check_read_vector(name + ".bias", *norm.bias, type_, channels_);
    check_same_type(name + ".weight", norm.weight, norm.bias);
    require(norm.mu.has_value() == norm.cov.has_value(), name, "given one of mu and cov", "both or neither");
    require(norm.var && (branch.gram() ? norm.cov : norm.mean), name, "without its statistics",
            branch.gram() ? "var, mu and cov" : "mean and var");
    if (norm.mean) check_read_vector(name + ".mean", *norm.mean, c10::kFloat, channels_);
    check_read_vector(name + ".var", *norm.var, c10::kFloat, channels_);
    check_shared(name, branch, norm);
    if (!norm.cov) return;
    const std::int64_t inputs = branch.x->size(1);
    check_read_vector(name + ".mu", *norm.mu, c10::kFloat, inputs);
    check_tensor(name + ".cov", *norm.cov, device_, c10::kFloat);
    check_sizes(name + ".cov", *norm.cov, {inputs, inputs});
    check_contiguous(name + ".cov", *norm.cov);
    read(name + ".cov", *norm.cov);
  }

  void check_shared(const Name& name, const BranchGradientArguments& branch, const NormGradientArguments& norm) {
    require(norm.shared || !norm.own_mean, name + ".own_mean", "given", "None where statistics are not shared");
    if (!norm.shared) return;
    require(norm.training, name + ".shared", "True", "False where training is False");
    require(norm.mean.has_value(), name + ".mean", "None", "a tensor where statistics are shared");
    require(norm.own_mean || branch.source == "direct", name + ".own_mean", "None",
            "a tensor where the statistics of a projection's norm are shared");
    if (norm.own_mean) check_read_vector(name + ".own_mean", *norm.own_mean, c10::kFloat, channels_);
  }

  void check_read_vector(const Name& name, const at::Tensor& t, c10::ScalarType type, std::int64_t size) {
    check_vector(name, t, device_, type, size);
    read(name, t);
  }

  void check_vectors(const Name& name, const BranchGradientArguments& branch) {
    const auto check = [&](const Name& part, const OptionalTensor& vector, bool there) {
      if (!vector) return;
      require(there, name + part, "given", "None: the branch has no such parameter");
      check_vector(name + part, *vector, device_, type_, channels_);
      write(name + part, *vector);
    };
    check(".dbias", branch.dbias, branch.source == "projection");
    check(".dgamma", branch.dgamma, branch.norm.has_value());
    check(".dbeta", branch.dbeta, branch.norm.has_value());
    if (branch.dbias)
      require(branch.dbias->scalar_type() == type_, name + ".dbias.dtype", branch.dbias->scalar_type(), type_);
    check_same_type(name + ".dgamma", branch.dgamma, branch.dbeta);
    if (!branch.norm) return;
    check_same_type(name + ".dgamma", branch.dgamma, branch.norm->weight);
    check_same_type(name + ".dbeta", branch.dbeta, branch.norm->weight);
  }

  static void check_same_type(const Name& name, const OptionalTensor& vector, const OptionalTensor& other) {
    if (vector && other)
      require(vector->scalar_type() == other->scalar_type(), name + ".dtype", vector->scalar_type(),
              other->scalar_type());
  }

  const GradientArguments& tail_;
  c10::Device device_;
  c10::ScalarType type_;
  std::int64_t channels_;
  std::vector<Extent> written_, read_;
};

}  // namespace fused_resnet::bindings
