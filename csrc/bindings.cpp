// The extension module: tensors in, launches out. The only file that knows torch and Python.

// Ahead of ours, whose macros (device/launch.h) are names in there.
#include <ATen/autocast_mode.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/csrc/utils/pybind.h>

namespace py = pybind11;

#include <bindings/backward_call.h>
#include <bindings/forward_call.h>
#include <bindings/remembered.h>
#include <forward.h>

using namespace fused_resnet;
using namespace fused_resnet::bindings;

// Types are local to the module: the same sources also make the emulator's, and both can be loaded side by side.
PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.doc() =
      "Launches of the fused residual tail's kernels; fused_resnet.backends.kernels.computation is its one caller.";

  py::class_<NormArguments>(module, "Norm", py::module_local(), "A batch norm; vectors are (C) and contiguous.")
      .def(py::init<OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor,
                    std::optional<double>, double, bool, bool>(),
           py::kw_only(), py::arg("weight"), py::arg("bias"), py::arg("running_mean"), py::arg("running_var"),
           py::arg("num_batches_tracked"), py::arg("momentum"), py::arg("eps"), py::arg("training"), py::arg("keep"));

  py::class_<BranchArguments>(module, "Branch", py::module_local(),
                              "A branch whose source is direct, zero_pad or projection.")
      .def(py::init<std::string, at::Tensor, std::int64_t, std::int64_t, OptionalTensor, OptionalTensor,
                    std::optional<NormArguments>>(),
           py::kw_only(), py::arg("source"), py::arg("x"), py::arg("stride"), py::arg("channels_before"),
           py::arg("weight"), py::arg("bias"), py::arg("norm"));

  py::class_<NormStatistics>(module, "NormStatistics", py::module_local(), "What a branch's statistics were.")
      .def_readonly("mean", &NormStatistics::mean, "(C) float32, of the branch without the projection's bias")
      .def_readonly("var", &NormStatistics::var, "(C) float32, biased")
      .def_readonly("mu", &NormStatistics::mu, "(K) float32, mean of x where it was computed")
      .def_readonly("cov", &NormStatistics::cov, "(K, K) float32, covariance of x where it was computed");

  py::class_<ForwardCall>(module, "Forward", py::module_local(),
                          "A checked forward call that writes y and, where it is given, the mask of its relu.")
      .def(py::init([](BranchArguments main, std::optional<BranchArguments> shortcut, at::Tensor y, OptionalTensor mask,
                       bool relu, bool tf32) {
             return std::make_unique<ForwardCall>(
                 TailArguments{std::move(main), std::move(shortcut), std::move(y), std::move(mask), relu, tf32});
           }),
           py::kw_only(), py::arg("main"), py::arg("shortcut"), py::arg("y"), py::arg("mask"), py::arg("relu"),
           py::arg("tf32"))
      .def(
          "run", [](const ForwardCall& call) { call.run(Phase::all); }, py::call_guard<py::gil_scoped_release>())
      .def(
          "moments", [](const ForwardCall& call) { call.run(Phase::moments); },
          py::call_guard<py::gil_scoped_release>())
      .def(
          "finish", [](const ForwardCall& call) { call.run(Phase::finish); }, py::call_guard<py::gil_scoped_release>())
      .def(
          "apply", [](const ForwardCall& call) { call.run(Phase::apply); }, py::call_guard<py::gil_scoped_release>())
      .def(
          "summarise", [](const ForwardCall& call) { call.run(Phase::summarise); },
          py::call_guard<py::gil_scoped_release>(),
          "Moments and finish, in one launch. Where processes share a norm's statistics, the caller then replaces its "
          "mean and var in statistics(), in place, by those of all processes' rows, and apply() writes y by these. The "
          "running statistics of such a norm are the caller's, and None here.")
      .def("statistics", &ForwardCall::statistics, py::arg("branch"), "Of branch 0 (main) or 1 (shortcut).");

  py::class_<NormGradientArguments>(module, "NormGradient", py::module_local(),
                                    "A norm and the statistics that the forward took; vectors are (C) and contiguous. "
                                    "Where processes share the statistics of a training norm, mean and var are those "
                                    "of all processes' rows, and of a projection's norm own_mean is the (C) float32 "
                                    "mean that summarise() left in this process; mu and cov stay this process's.")
      .def(py::init<OptionalTensor, OptionalTensor, double, bool, OptionalTensor, OptionalTensor, OptionalTensor,
                    OptionalTensor, bool, OptionalTensor>(),
           py::kw_only(), py::arg("weight"), py::arg("bias"), py::arg("eps"), py::arg("training"), py::arg("mean"),
           py::arg("var"), py::arg("mu"), py::arg("cov"), py::arg("shared") = false, py::arg("own_mean") = py::none());

  py::class_<BranchGradientArguments>(module, "BranchGradient", py::module_local(),
                                      "What a branch saved, and the gradients that are to be written.")
      .def(py::init<std::string, OptionalTensor, OptionalTensor, std::int64_t, std::int64_t,
                    std::optional<NormGradientArguments>, OptionalTensor, OptionalTensor, OptionalTensor,
                    OptionalTensor, OptionalTensor>(),
           py::kw_only(), py::arg("source"), py::arg("x"), py::arg("weight"), py::arg("stride"),
           py::arg("channels_before"), py::arg("norm"), py::arg("dx"), py::arg("dweight"), py::arg("dbias"),
           py::arg("dgamma"), py::arg("dbeta"));

  py::class_<BackwardCall>(module, "Backward", py::module_local(), "A checked backward call that writes gradients.")
      .def(py::init([](BranchGradientArguments main, std::optional<BranchGradientArguments> shortcut, at::Tensor dy,
                       OptionalTensor mask, bool relu, bool tf32) {
             return std::make_unique<BackwardCall>(
                 GradientArguments{std::move(main), std::move(shortcut), std::move(dy), std::move(mask), relu, tf32});
           }),
           py::kw_only(), py::arg("main"), py::arg("shortcut"), py::arg("dy"), py::arg("mask"), py::arg("relu"),
           py::arg("tf32"))
      .def(
          "run", [](const BackwardCall& call) { call.run(GradientPhase::all); },
          py::call_guard<py::gil_scoped_release>())
      .def(
          "reduce", [](const BackwardCall& call) { call.run(GradientPhase::reduce); },
          py::call_guard<py::gil_scoped_release>())
      .def(
          "finish", [](const BackwardCall& call) { call.run(GradientPhase::finish); },
          py::call_guard<py::gil_scoped_release>())
      .def(
          "apply", [](const BackwardCall& call) { call.run(GradientPhase::apply); },
          py::call_guard<py::gil_scoped_release>())
      .def(
          "summarise", [](const BackwardCall& call) { call.run(GradientPhase::summarise); },
          py::call_guard<py::gil_scoped_release>(),
          "Reduce, and the vectors of finish, in one launch: leaves dbias, dgamma, dbeta and sums(), all of this "
          "process's rows.")
      .def(
          "sums", &BackwardCall::sums,
          "(S, 2, C) float32, contiguous: of each of the S shared norms behind which dx or dweight is asked for, "
          "main's "
          "first, the sums of g and of g (p - mean) / std over this process's rows, as summarise() leaves them. Before "
          "complete(), the caller replaces all of it, in place, by the sums over the processes times this one's share "
          "of the rows. Norms that are not shared have no part in it. Zeros where dy is empty.")
      .def(
          "complete", [](const BackwardCall& call) { call.run(GradientPhase::complete); },
          py::call_guard<py::gil_scoped_release>(),
          "What is left of finish, and apply, in one launch: behind it, all gradients are written. Those of parameters "
          "add up over the processes to those of the whole batch; dbias ahead of a training norm is zero in each.");

  module.def(
      "run_remembered", &run_remembered, py::arg("main"), py::arg("shortcut"), py::arg("relu"),
      "y of a tail, branches as fused_resnet.operation.branches has them, where one like it is remembered; else None.");
  module.def("is_unknown", &is_unknown, py::kw_only(), py::arg("main"), py::arg("shortcut"), py::arg("relu"),
             "Whether nothing is remembered of such tails, and could be.");
  module.def(
      "remember", &remember, py::kw_only(), py::arg("main"), py::arg("shortcut"), py::arg("relu"), py::arg("call"),
      py::arg("given"), py::arg("saved"), py::arg("settings"),
      "Remembers a forward call for tails like this one; false where it cannot be made again. `given` are what "
      "it was described with: the 8 tensors of main and of shortcut, y, 4 statistics of each, and the relu's mask, "
      "all of them distinct objects; `saved`, of these, what backward needs; `settings` are handed to "
      "on_backward()'s.");
  module.def("remember_library", &remember_library, py::kw_only(), py::arg("main"), py::arg("shortcut"),
             py::arg("relu"), py::arg("of_main"), py::arg("of_shortcut"),
             "Remembers which projections of tails like this one PyTorch's own convolutions compute.");
  module.def(
      "set_choices", [](std::int64_t choices) { Plans::of_module().choices = choices; }, py::arg("choices"),
      "What use_backend and use_strategy have chosen: calls are remembered for a choice.");
  module.def(
      "connect",
      [](py::type direct, py::type projection, py::type zero_pad, py::type norm, py::object describe, py::object call) {
        const auto kept = [](py::object& object) { return object.release().ptr(); };
        Descriptions::of_module() = {kept(direct), kept(projection), kept(zero_pad), kept(norm)};
        Plans::of_module().describe_backward = kept(describe);
        Plans::of_module().call_backward = kept(call);
      },
      py::kw_only(), py::arg("direct"), py::arg("projection"), py::arg("zero_pad"), py::arg("norm"),
      py::arg("describe_backward"), py::arg("call_backward"),
      "The classes of fused_resnet.operation.branches. "
      "What a remembered tail's backward asks: describe_backward(settings, saved, dy, needs) gives a Backward, the dy "
      "that it "
      "reads and the gradients that it writes, or None; call_backward(settings, saved, dy, needs) gives the "
      "gradients.");

  // Rows and columns of a product that a block computes at a time, and bytes of its operands' rows at a time.
  module.attr("tile") = py::make_tuple(tile_rows, tile_columns, tile_depth_bytes);

  module.def(
      "launch_needs",
      [] {
        std::map<std::string, std::tuple<int, int, int>> needs;
        for (const auto& [kernel, need] : launch_needs())
          needs[kernel] = {need.threads, need.shared_bytes, need.blocks};
        return needs;
      },
      "By kernel: threads and bytes of shared memory a block, and blocks a multiprocessor that registers are left "
      "for.");
}
