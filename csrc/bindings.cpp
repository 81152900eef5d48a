// The extension module: tensors in, launches out. The only file that knows torch and Python.

#include <torch/csrc/utils/pybind.h>

#include <bindings/forward_call.h>
#include <forward.h>

namespace py = pybind11;
using namespace fused_resnet;
using namespace fused_resnet::bindings;

// Types are local to the module: the same sources also make the emulator's, and both can be loaded side by side.
PYBIND11_MODULE(TORCH_EXTENSION_NAME, module) {
  module.doc() = "Launches of the fused residual tail's kernels; fused_resnet.kernels is its one caller.";

  py::class_<NormArguments>(module, "Norm", py::module_local(), "A batch norm; vectors are (C) and contiguous.")
      .def(py::init<OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor, OptionalTensor,
                    std::optional<double>, double, bool>(),
           py::kw_only(), py::arg("weight"), py::arg("bias"), py::arg("running_mean"), py::arg("running_var"),
           py::arg("num_batches_tracked"), py::arg("momentum"), py::arg("eps"), py::arg("training"));

  py::class_<BranchArguments>(module, "Branch", py::module_local(),
                              "A branch whose source is direct, zero_pad or projection.")
      .def(py::init<std::string, at::Tensor, std::int64_t, std::int64_t, OptionalTensor, OptionalTensor,
                    std::optional<NormArguments>, bool>(),
           py::kw_only(), py::arg("source"), py::arg("x"), py::arg("stride"), py::arg("channels_before"),
           py::arg("weight"), py::arg("bias"), py::arg("norm"), py::arg("materialise"));

  py::class_<BatchStatistics>(module, "BatchStatistics", py::module_local(), "What a branch's batch statistics were.")
      .def_readonly("mean", &BatchStatistics::mean, "(C) float32, of the branch without the projection's bias")
      .def_readonly("var", &BatchStatistics::var, "(C) float32, biased")
      .def_readonly("mu", &BatchStatistics::mu, "(K) float32, mean of x where it was computed")
      .def_readonly("cov", &BatchStatistics::cov, "(K, K) float32, covariance of x where it was computed");

  py::class_<ForwardCall>(module, "Forward", py::module_local(), "A checked forward call that writes y.")
      .def(py::init(
               [](BranchArguments main, std::optional<BranchArguments> shortcut, at::Tensor y, bool relu, bool tf32) {
                 return std::make_unique<ForwardCall>(
                     TailArguments{std::move(main), std::move(shortcut), std::move(y), relu, tf32});
               }),
           py::kw_only(), py::arg("main"), py::arg("shortcut"), py::arg("y"), py::arg("relu"), py::arg("tf32"))
      .def(
          "run", [](const ForwardCall& call) { call.run(Phase::all); }, py::call_guard<py::gil_scoped_release>())
      .def(
          "moments", [](const ForwardCall& call) { call.run(Phase::moments); },
          py::call_guard<py::gil_scoped_release>())
      .def(
          "finish", [](const ForwardCall& call) { call.run(Phase::finish); }, py::call_guard<py::gil_scoped_release>())
      .def(
          "apply", [](const ForwardCall& call) { call.run(Phase::apply); }, py::call_guard<py::gil_scoped_release>())
      .def("statistics", &ForwardCall::statistics, py::arg("branch"), "Of branch 0 (main) or 1 (shortcut).");

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
