// A tail as Python passes it, and its checks.
#pragma once

#include <bindings/call.h>

namespace fused_resnet::bindings {

struct NormArguments {
  OptionalTensor weight, bias, running_mean, running_var, num_batches_tracked;
  std::optional<double> momentum;
  double eps;
  bool training;
  bool keep;  // where it is not training: its running statistics as this call takes them
};

struct BranchArguments {
  std::string source;  // "direct", "zero_pad" or "projection"
  at::Tensor x;
  std::int64_t stride;
  std::int64_t channels_before;
  OptionalTensor weight, bias;
  std::optional<NormArguments> norm;
};

struct TailArguments {
  BranchArguments main;
  std::optional<BranchArguments> shortcut;
  at::Tensor y;
  OptionalTensor mask;  // of the relu, where backward follows
  bool relu;
  bool tf32;
};

class TailChecks {
 public:
  explicit TailChecks(const TailArguments& tail)
      : tail_(tail), device_(tail.y.device()), type_(tail.y.scalar_type()), channels_(0) {}

  void run() {
    check_output();
    check_branch("main", tail_.main);
    if (tail_.shortcut) check_branch("shortcut", *tail_.shortcut);
    check_aliasing(written_, read_);
  }

 private:
  void check_output() {
    const at::Tensor& y = tail_.y;
    check_activations("y", y, device_, type_);
    check_dense("y", y);
    channels_ = y.size(1);
    written_.emplace_back("y", y);
    if (!tail_.mask) return;
    require(tail_.relu, "mask", "given", "None where relu is False");
    check_mask("mask", *tail_.mask, y);
    written_.emplace_back("mask", *tail_.mask);
  }

  std::int64_t rows() const { return tail_.y.size(0) * tail_.y.size(2) * tail_.y.size(3); }

  void read(const Name& name, const at::Tensor& t) { read_.emplace_back(name, t); }

  void check_branch(const Name& name, const BranchArguments& branch) {
    const at::Tensor &x = branch.x, &y = tail_.y;
    check_tensor(name + ".x", x, device_, type_);
    require(x.dim() == 4, name + ".x", Shape{x.sizes()}, "of four dimensions");
    const std::int64_t s = branch.stride, channels = x.size(1);
    require(s >= 1, name + ".stride", s, "at least 1");
    const auto pixels = [s](std::int64_t size) { return size / s + (size % s != 0); };
    check_sizes(name + ".x", x, {y.size(0), channels, x.size(2), x.size(3)});
    require(pixels(x.size(2)) == y.size(2) && pixels(x.size(3)) == y.size(3), name + ".x", Shape{x.sizes()},
            Both{"such that its strided pixels are those of y, ", Shape{y.sizes()}});
    read(name + ".x", x);
    check_source(name, branch, channels);
    if (branch.norm) check_norm(name + ".norm", *branch.norm);
  }

  void check_source(const Name& name, const BranchArguments& branch, std::int64_t channels) {
    if (branch.source == "direct") {
      require(channels == channels_, name + ".x", Shape{branch.x.sizes()}, "as many channels as y");
      require(branch.stride == 1, name + ".stride", branch.stride, "1 for a direct source");
    } else if (branch.source == "zero_pad") {
      require(branch.channels_before >= 0 && branch.channels_before <= channels_ - channels, name + ".channels_before",
              branch.channels_before, "such that x's channels lie within y's");
      require(!branch.norm, name + ".norm", "given", "None for a zero-padded source");
    } else if (branch.source == "projection") {
      check_projection(name, branch, channels);
    } else {
      refuse(name + ".source", branch.source, "direct, zero_pad or projection");
    }
  }

  void check_projection(const Name& name, const BranchArguments& branch, std::int64_t channels) {
    require(branch.weight.has_value(), name + ".weight", "None", "a tensor");
    require(channels > 0, name + ".x", Shape{branch.x.sizes()}, "at least one channel");
    check_tensor(name + ".weight", *branch.weight, device_, type_);
    check_sizes(name + ".weight", *branch.weight, {channels_, channels, 1, 1});
    read(name + ".weight", *branch.weight);
    if (!branch.bias) return;
    check_vector(name + ".bias", *branch.bias, device_, type_, channels_);
    require(branch.bias->scalar_type() == type_, name + ".bias.dtype", branch.bias->scalar_type(), type_);
    read(name + ".bias", *branch.bias);
  }

  void check_norm(const Name& name, const NormArguments& norm) {
    std::optional<c10::ScalarType> type;
    const auto check = [&](const char* part, const OptionalTensor& vector, bool written) {
      if (!vector) return;
      const Name full = name + "." + part;
      check_vector(full, *vector, device_, type_, channels_);
      if (!type) type = vector->scalar_type();
      require(vector->scalar_type() == *type, full + ".dtype", vector->scalar_type(), *type);
      (written ? written_ : read_).emplace_back(full, *vector);
    };
    check("weight", norm.weight, false);
    check("bias", norm.bias, false);
    check("running_mean", norm.running_mean, norm.training);
    check("running_var", norm.running_var, norm.training);
    require(norm.running_mean.has_value() == norm.running_var.has_value(), name,
            "given one of running_mean and running_var", "both or neither");
    require(norm.training || norm.running_mean, name + ".running_mean", "None", "a tensor where training is False");
    if (norm.training) check_training(name, norm);
  }

  void check_training(const Name& name, const NormArguments& norm) {
    // One value is right where other processes have more, but it has no unbiased variance.
    require(rows() != 1 || !norm.running_mean, name, "given one value per channel",
            "more than 1 value per channel when training");
    const OptionalTensor& batches = norm.num_batches_tracked;
    require(norm.momentum || !norm.running_mean || batches, name + ".num_batches_tracked", "None",
            "a tensor where momentum is None");
    if (!batches) return;
    check_tensor(name + ".num_batches_tracked", *batches, device_, c10::kLong);
    require(batches->numel() == 1, name + ".num_batches_tracked", Shape{batches->sizes()}, "a scalar");
    written_.emplace_back(name + ".num_batches_tracked", *batches);
  }

  const TailArguments& tail_;
  c10::Device device_;
  c10::ScalarType type_;
  std::int64_t channels_;
  std::vector<Extent> written_, read_;
};

}  // namespace fused_resnet::bindings
