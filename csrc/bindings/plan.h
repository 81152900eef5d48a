// Calls that are remembered: for a tail's sizes, strides, types and settings, the launches that compute it.
#pragma once

#include <ATen/Context.h>
#include <ATen/ops/empty_strided.h>
#include <c10/core/SafePyObject.h>
#include <torch/csrc/PyInterpreter.h>

#include <bindings/backward_call.h>
#include <bindings/forward_call.h>
#include <bindings/values.h>

#include <memory>
#include <mutex>
#include <unordered_map>

namespace fused_resnet::bindings {

constexpr int branches = 2, inputs = branches * tensors_a_branch, operands = branches * operands_a_branch;
constexpr int statistics_a_branch = 4;

// How memory is made that a launch fills: like a tensor that an earlier one has filled.
class Made {
 public:
  Made() = default;
  explicit Made(const at::Tensor& like) : sizes_(like.sizes()), strides_(like.strides()), type_(like.scalar_type()) {}

  at::Tensor make(const at::Tensor& beside) const {
    return at::empty_strided(sizes_, strides_, beside.options().dtype(type_));
  }

 private:
  c10::DimVector sizes_, strides_;
  c10::ScalarType type_ = c10::kFloat;
};

// A backward, for some of the gradients.
struct BackwardPlan {
  Replay<TailGradient> replay;
  std::optional<Made> readable;             // a layout that dy is copied to first, where it needs one
  std::optional<Made> gradients[operands];  // of those asked for
  bool passed[operands] = {};               // the gradient is dy itself
};

// A forward, and the backwards that have followed it.
class ForwardPlan {
 public:
  // Nothing to replay: the tail is not computed by a launch of its own. `by_library`: nor are these projections.
  explicit ForwardPlan(std::array<bool, branches> by_library) : by_library(by_library) {}

  // `given` are the call's inputs, y, statistics and mask; `saved` those of them that backward needs.
  ForwardPlan(const ForwardCall& call, const std::vector<at::Tensor>& given, const std::vector<at::Tensor>& saved,
              py::object settings, std::int64_t choices)
      : replay(call.replay(given)), choices(choices) {
    for (int i = 0; i < inputs; ++i) is_given[i] = given[i].defined();
    for (std::size_t i = inputs; i < given.size(); ++i)
      made_.push_back(given[i].defined() ? std::optional<Made>(given[i]) : std::nullopt);
    for (std::size_t i = 0; i < saved.size(); ++i)
      if (saved[i].defined()) saved_.push_back({i, place_of(saved[i], given)});
    saved_size_ = saved.size();
    this->settings = std::make_unique<c10::SafePyObject>(settings.release().ptr(), getPyInterpreter());
  }

  bool is_complete() const { return replay && replay->is_complete(); }

  // Inputs, y, statistics and mask, after the launch.
  std::vector<at::Tensor> run(std::vector<at::Tensor> given) const {
    const at::Tensor like = given[0];
    for (const std::optional<Made>& made : made_) given.push_back(made ? made->make(like) : at::Tensor());
    replay->run(given[inputs], given);
    return given;
  }

  // What backward needs of what `run` returned.
  std::vector<at::Tensor> saved(const std::vector<at::Tensor>& given) const {
    std::vector<at::Tensor> saved;
    saved.reserve(saved_.size());
    for (const Saved& one : saved_) saved.push_back(given[one.place]);
    return saved;
  }

  // The same as the backward operator takes it, undefined tensors for what is not there.
  std::vector<at::Tensor> of_operator(const std::vector<at::Tensor>& saved) const {
    std::vector<at::Tensor> all(saved_size_);
    for (std::size_t i = 0; i < saved_.size(); ++i) all[saved_[i].argument] = saved[i];
    return all;
  }

  std::optional<Replay<Tail>> replay;
  std::array<bool, branches> by_library{};
  std::array<bool, inputs> is_given{};
  std::int64_t choices = 0;
  std::string name;                             // among all plans
  std::unique_ptr<c10::SafePyObject> settings;  // of the backward operator

  // Null where no launch of its own computes it.
  std::unordered_map<Key, std::shared_ptr<const BackwardPlan>, Key::Hash> backwards;
  std::mutex mutex;

 private:
  // One of the backward operator's arguments, and its place among what is given.
  struct Saved {
    std::size_t argument, place;
  };

  static std::size_t place_of(const at::Tensor& t, const std::vector<at::Tensor>& given) {
    for (std::size_t i = 0; i < given.size(); ++i)
      if (given[i].defined() && given[i].is_same(t)) return i;
    throw std::runtime_error("saved holds a tensor that is not among those given");
  }

  std::vector<std::optional<Made>> made_;  // y, statistics and mask
  std::vector<Saved> saved_;
  std::size_t saved_size_ = 0;
};

using PlanPointer = std::shared_ptr<ForwardPlan>;

// All plans of this module. None is ever forgotten: graphs that still wait for their backward know them by name.
class Plans {
 public:
  static Plans& of_module() {
    static Plans* const plans = new Plans;  // never destroyed: Python may be gone by then
    return *plans;
  }

  PlanPointer find(const Key& key) {
    const std::lock_guard<std::mutex> lock(mutex_);
    const auto found = plans_.find(key);
    return found == plans_.end() ? PlanPointer() : found->second;
  }

  // False where there are too many: sizes that never come back must not fill the memory.
  bool remember(Key key, const PlanPointer& plan) {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (all_.size() >= most) return false;
    plan->name = std::to_string(all_.size());
    all_.push_back(plan);
    plans_.insert_or_assign(std::move(key), plan);
    return true;
  }

  PlanPointer named(const std::string& name) {
    const std::lock_guard<std::mutex> lock(mutex_);
    return all_.at(std::stoul(name));
  }

  // Some ten kilobytes each.
  static constexpr std::size_t most = 8192;

  // What `fused_resnet.use_backend` and `use_strategy` have chosen, as a number.
  std::atomic<std::int64_t> choices{0};
  // Functions of `fused_resnet.operators.remembered` that describe a backward, or compute it by the operators.
  PyObject* describe_backward = nullptr;
  PyObject* call_backward = nullptr;

 private:
  std::unordered_map<Key, PlanPointer, Key::Hash> plans_;
  std::vector<PlanPointer> all_;  // by name
  std::mutex mutex_;
};

inline bool allows_tf32() { return at::globalContext().allowTF32CuDNN(); }

}  // namespace fused_resnet::bindings
