// One forward call: checked arguments, a workspace, the filled `Tail`, and its launches.
#pragma once

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <bindings/arguments.h>
#include <bindings/layout.h>
#include <partition.h>

namespace fused_resnet::bindings {

// What the batch's statistics were; undefined tensors where a branch has none.
struct BatchStatistics {
  at::Tensor mean, var, mu, cov;
};

class ForwardCall {
 public:
  explicit ForwardCall(TailArguments arguments) : arguments_(std::move(arguments)), tail_{} {
    TailChecks(arguments_).run();
    if (arguments_.y.numel() == 0) return;
    fill_output();
    const bool swapped = arguments_.shortcut && is_product(*arguments_.shortcut) && !is_product(arguments_.main);
    fill_branch("main", arguments_.main, swapped ? 1 : 0, statistics_[0]);
    if (arguments_.shortcut) fill_branch("shortcut", *arguments_.shortcut, swapped ? 0 : 1, statistics_[1]);
    tail_.vectorised = tail_.y.vectorised;
    for (const Branch& branch : tail_.branches) tail_.vectorised = tail_.vectorised && read_in_vectors(branch);
  }
  ForwardCall(const ForwardCall&) = delete;  // buffers point into the tail

  // Queues the phase on the current stream of y's device.
  void run(Phase phase) const {
    if (arguments_.y.numel() == 0) return;
    const c10::Device device = arguments_.y.device();
    const c10::OptionalDeviceGuard guard(device);
    device::Stream stream{};
    if constexpr (device::on_gpu) {
      device::use_device(device.index());
      const c10::impl::VirtualGuardImpl implementation(device.type());
      stream = static_cast<device::Stream>(implementation.getStreamNativeHandle(implementation.getStream(device)));
    }
    launch_forward(math(), phase, tail_, buffers(phase), stream);
  }

  BatchStatistics statistics(int branch) const {
    require(branch == 0 || branch == 1, "branch", branch, "0 (main) or 1 (shortcut)");
    return statistics_[branch];
  }

 private:
  // A pointer of the tail, the memory behind it, and the phase that writes it (`all`: an input, never written).
  struct Use {
    std::string name;
    std::size_t offset;
    at::Tensor tensor;
    Phase writer;
    bool updated;  // read before it is written
  };

  Math math() const {
    switch (element_type(arguments_.y.scalar_type())) {
      case ElementType::bfloat16:
        return Math::bfloat16;
      case ElementType::float16:
        return Math::float16;
      default:
        return arguments_.tf32 ? Math::tf32 : Math::float32;
    }
  }

  // Remembers what a pointer of the tail leads to. Returns the memory's address.
  template <class Pointer>
  void use(const std::string& name, Pointer& pointer, const at::Tensor& tensor, Phase writer, bool updated = false) {
    pointer = static_cast<Pointer>(tensor.data_ptr());
    const auto offset = reinterpret_cast<const char*>(&pointer) - reinterpret_cast<const char*>(&tail_);
    uses_.push_back({name, static_cast<std::size_t>(offset), tensor, writer, updated});
  }

  template <class Pointer>
  void use_input(const std::string& name, Pointer& pointer, const OptionalTensor& tensor) {
    if (tensor) use(name, pointer, *tensor, Phase::all);
  }

  // Memory of the call's own; its name in the emulator's reports ends like the pointer's.
  at::Tensor allocate(at::IntArrayRef sizes, c10::ScalarType type = c10::kFloat) const {
    return at::empty(sizes, arguments_.y.options().dtype(type).memory_format(c10::MemoryFormat::Contiguous));
  }

  std::vector<device::Buffer> buffers(Phase phase) const {
    using Access = device::Buffer::Access;
    std::vector<device::Buffer> buffers;
    for (const Use& use : uses_) {
      const bool input = use.writer == Phase::all;
      if (!input && phase != Phase::all && phase < use.writer) continue;
      const bool writes = !input && (phase == Phase::all || phase == use.writer);
      const Extent extent(use.name, use.tensor);
      buffers.push_back({use.name, use.offset, extent.begin, static_cast<std::size_t>(extent.end - extent.begin),
                         !writes       ? Access::read
                         : use.updated ? Access::read_write
                                       : Access::write});
    }
    return buffers;
  }

  static Source source_of(const BranchArguments& branch) {
    if (branch.source == "direct") return Source::direct;
    return branch.source == "zero_pad" ? Source::zero_pad : Source::projection;
  }

  static Statistics statistics_of(const BranchArguments& branch) {
    if (!branch.norm) return Statistics::none;
    if (!branch.norm->training) return Statistics::running;
    if (branch.source == "direct") return Statistics::columns;
    return branch.materialise ? Statistics::product : Statistics::gram;
  }

  static bool is_product(const BranchArguments& arguments) {
    Branch branch{};
    branch.source = source_of(arguments);
    branch.statistics = statistics_of(arguments);
    return fused_resnet::is_product(branch);
  }

  void fill_output() {
    const at::Tensor& y = arguments_.y;
    tail_.height = static_cast<int>(y.size(2));
    tail_.width = static_cast<int>(y.size(3));
    tail_.rows = static_cast<int>(y.size(0) * y.size(2) * y.size(3));
    tail_.channels = static_cast<int>(y.size(1));
    tail_.relu = arguments_.relu;
    tail_.y = activations(y, 1, y.size(2), y.size(3));
    use("y", tail_.y.data, y, Phase::apply);
  }

  void fill_branch(const std::string& name, const BranchArguments& from, int index, BatchStatistics& statistics) {
    Branch& to = tail_.branches[index];
    to.source = source_of(from);
    to.x = activations(from.x, from.stride, tail_.height, tail_.width);
    use(name + ".x", to.x.data, from.x, Phase::all);
    to.channels_before = static_cast<int>(from.channels_before);
    if (to.source == Source::projection) {
      to.weight = matrix(*from.weight);
      use(name + ".weight", to.weight.data, *from.weight, Phase::all);
    }
    use_input(name + ".bias", to.bias, from.bias);
    if (!from.norm) return;
    fill_norm(name + ".norm", *from.norm, to.norm);
    to.statistics = statistics_of(from);
    if (is_training(to)) fill_workspace(name, to, statistics);
  }

  void fill_norm(const std::string& name, const NormArguments& from, Norm& to) {
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
      use(name + ".running_mean", to.running_mean, *from.running_mean, Phase::finish, true);
      use(name + ".running_var", to.running_var, *from.running_var, Phase::finish, true);
    }
    if (from.num_batches_tracked)
      use(name + ".num_batches_tracked", to.num_batches_tracked, *from.num_batches_tracked, Phase::moments, true);
  }

  void fill_workspace(const std::string& name, Branch& to, BatchStatistics& statistics) {
    to.partition = partition_rows(tail_, to);
    const std::int64_t ranges = to.partition.ranges, channels = tail_.channels, inputs = to.x.channels;
    use(name + ".momentum", to.momentum, allocate({1}), Phase::moments);
    statistics.mean = allocate({channels});
    statistics.var = allocate({channels});
    use(name + ".mean", to.mean, statistics.mean, Phase::finish);
    use(name + ".var", to.var, statistics.var, Phase::finish);
    if (to.statistics != Statistics::gram) {
      use(name + ".partial_mean", to.partial_mean, allocate({ranges, channels}), Phase::moments);
      use(name + ".partial_m2", to.partial_m2, allocate({ranges, channels}), Phase::moments);
      if (to.statistics == Statistics::product) fill_materialised(name, to);
      return;
    }
    statistics.mu = allocate({inputs});
    statistics.cov = allocate({inputs, inputs});
    use(name + ".mu", to.mu, statistics.mu, Phase::finish);
    use(name + ".cov", to.cov, statistics.cov, Phase::finish);
    use(name + ".partial_gram", to.partial_gram, allocate({ranges, tile_pairs(to.x.channels), tile_rows, tile_columns}),
        Phase::moments);
    use(name + ".partial_sum", to.partial_sum, allocate({ranges, inputs}), Phase::moments);
    use(name + ".shift", to.shift, allocate({inputs}), Phase::moments);
  }

  void fill_materialised(const std::string& name, Branch& to) {
    const at::Tensor p = allocate({tail_.rows, tail_.channels}, arguments_.y.scalar_type());
    const at::Tensor image = p.view({1, 1, tail_.rows, tail_.channels}).permute({0, 3, 1, 2});
    to.materialised = activations(image, 1, 1, tail_.rows);
    use(name + ".materialised", to.materialised.data, p, Phase::moments);
  }

  // Where y is written, the branch is read 16 bytes at once, or not at all.
  bool read_in_vectors(const Branch& branch) const {
    if (branch.source == Source::none || fused_resnet::is_product(branch)) return true;
    if (branch.statistics == Statistics::product) return branch.materialised.vectorised;
    const int vector = 16 / static_cast<int>(arguments_.y.element_size());
    return branch.x.vectorised && branch.channels_before % vector == 0;
  }

  TailArguments arguments_;
  Tail tail_;
  BatchStatistics statistics_[2];
  std::vector<Use> uses_;
};

}  // namespace fused_resnet::bindings
