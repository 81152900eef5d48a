// A remembered tail as one node of autograd's graph.
#pragma once

#include <torch/csrc/autograd/custom_function.h>

#include <bindings/plan.h>

namespace fused_resnet::bindings {

namespace autograd = torch::autograd;

class ResidualTail : public autograd::Function<ResidualTail> {
 public:
  using OptionalOperand = const std::optional<at::Tensor>&;

  // A remembered tail and its inputs.
  struct Call {
    PlanPointer plan;
    std::vector<at::Tensor> inputs;
  };

  // The operands that gradients flow to are also among the call's inputs: autograd has to see them.
  static at::Tensor forward(autograd::AutogradContext* context, OptionalOperand, OptionalOperand, OptionalOperand,
                            OptionalOperand, OptionalOperand, OptionalOperand, OptionalOperand, OptionalOperand,
                            OptionalOperand, OptionalOperand, const Call& call) {
    const std::vector<at::Tensor> given = call.plan->run(call.inputs);
    context->save_for_backward(call.plan->saved(given));
    // A word, which compilers of the backward can take for a constant.
    context->saved_data[plan_name] = call.plan->name;
    context->set_materialize_grads(false);
    return given[inputs];
  }

  static autograd::variable_list backward(autograd::AutogradContext* context, autograd::variable_list incoming) {
    const at::Tensor& dy = incoming[0];
    if (!dy.defined()) return autograd::variable_list(operands + 1);  // nothing downstream depends on the output
    const PlanPointer kept = Plans::of_module().named(context->saved_data[plan_name].toStringRef());
    ForwardPlan& plan = *kept;
    autograd::variable_list saved = context->get_saved_variables();
    std::array<bool, operands> needs{};
    for (int operand = 0, edge = 0; operand < operands; ++operand)
      if (plan.is_given[input_of(operand)]) needs[operand] = context->needs_input_grad(edge++);
    const std::shared_ptr<const BackwardPlan> found = backward_plan(plan, saved, dy, needs);
    return found ? run(*found, std::move(saved), dy) : call_operator(plan, saved, dy, needs);
  }

 private:
  static constexpr const char* plan_name = "plan";

  static int input_of(int operand) {
    return operand / operands_a_branch * tensors_a_branch + operand % operands_a_branch;
  }

  // Null where the operators have to be called, to be seen or because no launch of its own computes the gradients.
  static std::shared_ptr<const BackwardPlan> backward_plan(ForwardPlan& plan, const autograd::variable_list& saved,
                                                           const at::Tensor& dy,
                                                           const std::array<bool, operands>& needs) {
    const Plans& all = Plans::of_module();
    if (at::GradMode::is_enabled() || !nobody_looks_on() || !is_plain(dy) || all.choices != plan.choices)
      return nullptr;
    Key key;
    key.add(dy);
    std::int64_t settings = allows_tf32();
    for (const bool need : needs) settings = settings << 1 | need;
    key.add(settings);
    for (const at::Tensor& t : saved) {
      if (!is_plain(t)) return nullptr;
      key.add(t);
    }
    {
      const std::lock_guard<std::mutex> lock(plan.mutex);
      const auto found = plan.backwards.find(key);
      if (found != plan.backwards.end()) return found->second;
    }
    const std::shared_ptr<const BackwardPlan> described = describe(plan, saved, dy, needs);
    const std::lock_guard<std::mutex> lock(plan.mutex);
    if (plan.backwards.size() >= Plans::most) plan.backwards.clear();
    return plan.backwards.insert_or_assign(std::move(key), described).first->second;
  }

  static std::shared_ptr<const BackwardPlan> describe(const ForwardPlan& plan, const autograd::variable_list& saved,
                                                      const at::Tensor& dy, const std::array<bool, operands>& needs) {
    const py::gil_scoped_acquire gil;
    // Each tensor by itself, also where two of them are one: the next time they may be two.
    std::vector<at::Tensor> given;
    for (const at::Tensor& t : saved) given.push_back(t.detach());
    const at::Tensor own_dy = dy.detach();
    const py::object answer = py::reinterpret_borrow<py::object>(Plans::of_module().describe_backward)(
        settings_of(plan), optional(plan.of_operator(given)), own_dy, std::vector<bool>(needs.begin(), needs.end()));
    if (answer.is_none()) return nullptr;
    const auto [call, read, gradients] =
        answer.cast<std::tuple<py::object, at::Tensor, std::vector<std::optional<at::Tensor>>>>();
    given.push_back(read);
    for (const auto& gradient : gradients) given.push_back(gradient.value_or(at::Tensor()));
    auto made = std::make_shared<BackwardPlan>(BackwardPlan{call.cast<const BackwardCall&>().replay(given)});
    if (!made->replay.is_complete()) return nullptr;
    if (!read.is_same(own_dy)) made->readable = Made(read);
    for (int i = 0; i < operands; ++i) {
      if (!gradients[i]) continue;
      made->passed[i] = gradients[i]->is_same(own_dy);
      made->gradients[i] = Made(*gradients[i]);
    }
    return made;
  }

  static autograd::variable_list run(const BackwardPlan& plan, autograd::variable_list given, const at::Tensor& dy) {
    const std::size_t first = given.size() + 1;
    given.reserve(first + operands);
    given.push_back(dy);
    if (plan.readable) given.back() = plan.readable->make(dy).copy_(dy);
    for (int i = 0; i < operands; ++i)
      given.push_back(plan.passed[i] ? dy : plan.gradients[i] ? plan.gradients[i]->make(dy) : at::Tensor());
    plan.replay.run(dy, given);
    autograd::variable_list gradients(given.begin() + static_cast<std::ptrdiff_t>(first), given.end());
    gradients.emplace_back();  // of the call
    return gradients;
  }

  static autograd::variable_list call_operator(const ForwardPlan& plan, const autograd::variable_list& saved,
                                               const at::Tensor& dy, const std::array<bool, operands>& needs) {
    const py::gil_scoped_acquire gil;
    const py::object answer = py::reinterpret_borrow<py::object>(Plans::of_module().call_backward)(
        settings_of(plan), optional(plan.of_operator(saved)), dy, std::vector<bool>(needs.begin(), needs.end()));
    autograd::variable_list gradients;
    for (const auto& gradient : answer.cast<std::vector<std::optional<at::Tensor>>>())
      gradients.push_back(gradient.value_or(at::Tensor()));
    gradients.resize(operands + 1);
    return gradients;
  }

  static py::object settings_of(const ForwardPlan& plan) {
    return py::reinterpret_borrow<py::object>(plan.settings->ptr(getPyInterpreter()));
  }

  static std::vector<std::optional<at::Tensor>> optional(const std::vector<at::Tensor>& tensors) {
    std::vector<std::optional<at::Tensor>> all;
    for (const at::Tensor& t : tensors) all.push_back(t.defined() ? std::optional<at::Tensor>(t) : std::nullopt);
    return all;
  }
};

}  // namespace fused_resnet::bindings
