// The entrance for tails that have been computed before: one crossing from Python a direction.
#pragma once

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/record_function.h>

#include <bindings/tail_function.h>

namespace fused_resnet::bindings {

// A tail's inputs in the order of a plan's.
inline std::vector<at::Tensor> inputs_of(const TailValues& tail) {
  std::vector<at::Tensor> all;
  all.reserve(inputs + 2 + branches * statistics_a_branch);
  for (const BranchValues& branch : tail.branches) all.insert(all.end(), branch.tensors, std::end(branch.tensors));
  return all;
}

inline std::optional<at::Tensor> operand(const at::Tensor& t) {
  return t.defined() ? std::optional<at::Tensor>(t) : std::nullopt;
}

inline at::Tensor compute(const TailValues& tail, PlanPointer plan, std::vector<at::Tensor> inputs) {
  const py::gil_scoped_release released;
  RECORD_FUNCTION("fused_resnet::residual_tail", c10::ArrayRef<const c10::IValue>());
  if (!tail.keeps()) return plan->run(std::move(inputs))[bindings::inputs];
  const at::Tensor *a = tail.branches[0].tensors, *b = tail.branches[1].tensors;
  return ResidualTail::apply(operand(a[0]), operand(a[1]), operand(a[2]), operand(a[3]), operand(a[4]), operand(b[0]),
                             operand(b[1]), operand(b[2]), operand(b[3]), operand(b[4]),
                             ResidualTail::Call{std::move(plan), std::move(inputs)});
}

inline PlanPointer plan_of(const TailValues& tail) {
  Plans& plans = Plans::of_module();
  return plans.find(tail.key(plans.choices, allows_tf32()));
}

// Whether the operators need not be called for anybody to see.
inline bool read_unseen(TailValues& tail, py::handle main, py::handle shortcut, bool relu) {
  return nobody_looks_on() && !at::impl::torch_function_mode_enabled() &&
         tail.read_from(main.ptr(), shortcut.ptr(), relu);
}

// y, or nothing where no such tail is remembered, or something looks on.
inline std::optional<at::Tensor> run_remembered(py::handle main, py::handle shortcut, bool relu) {
  TailValues tail;
  if (!read_unseen(tail, main, shortcut, relu)) return std::nullopt;
  for (BranchValues& branch : tail.branches) branch.cast_by_autocast();
  PlanPointer plan = plan_of(tail);
  if (plan && (plan->by_library[0] || plan->by_library[1])) {
    for (int i = 0; i < branches; ++i)
      if (plan->by_library[i]) tail.branches[i].convolve();
    plan = plan_of(tail);
  }
  if (!plan || !plan->replay) return std::nullopt;
  std::vector<at::Tensor> inputs = inputs_of(tail);
  if (plan->replay->overlaps(inputs)) return std::nullopt;
  return compute(tail, std::move(plan), std::move(inputs));
}

inline bool is_unknown(py::handle main, py::handle shortcut, bool relu) {
  TailValues tail;
  return read_unseen(tail, main, shortcut, relu) && !plan_of(tail);
}

// Remembers the call for tails like this one.
inline bool remember(py::handle main, py::handle shortcut, bool relu, const ForwardCall& call,
                     const std::vector<std::optional<at::Tensor>>& given,
                     const std::vector<std::optional<at::Tensor>>& saved, py::object settings) {
  const auto plain = [](const std::vector<std::optional<at::Tensor>>& tensors) {
    std::vector<at::Tensor> all;
    for (const auto& t : tensors) all.push_back(t.value_or(at::Tensor()));
    return all;
  };
  TailValues tail;
  if (!tail.read_from(main.ptr(), shortcut.ptr(), relu)) return false;
  Plans& plans = Plans::of_module();
  const auto plan = std::make_shared<ForwardPlan>(call, plain(given), plain(saved), std::move(settings), plans.choices);
  return plan->is_complete() && plans.remember(tail.key(plans.choices, allows_tf32()), plan);
}

// Remembers that these projections of tails like this one are PyTorch's own convolutions'.
inline void remember_library(py::handle main, py::handle shortcut, bool relu, bool of_main, bool of_shortcut) {
  TailValues tail;
  if (!tail.read_from(main.ptr(), shortcut.ptr(), relu)) return;
  Plans& plans = Plans::of_module();
  plans.remember(tail.key(plans.choices, allows_tf32()),
                 std::make_shared<ForwardPlan>(std::array<bool, branches>{of_main, of_shortcut}));
}

}  // namespace fused_resnet::bindings
