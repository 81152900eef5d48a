// What forward and backward calls share: a workspace, the buffers behind a struct's pointers, and the stream.
#pragma once

#include <bindings/checks.h>
#include <bindings/layout.h>
#include <bindings/replay.h>
#include <partition.h>

#include <utility>

namespace fused_resnet::bindings {

using OptionalTensor = std::optional<at::Tensor>;

inline Source source_of(const std::string& name) {
  if (name == "direct") return Source::direct;
  return name == "zero_pad" ? Source::zero_pad : Source::projection;
}

// `Parameters` are the kernels' struct; a `Step` is `input` or what memory is written by, in the order of writing.
template <class Parameters, class Step>
class Call {
 public:
  Call(const Call&) = delete;  // buffers point into the parameters

 protected:
  explicit Call(at::Tensor like) : parameters_{}, like_(std::move(like)) {}

  // The first and the last step of a launch.
  using Steps = std::pair<Step, Step>;

  // Calls `launch(buffers, stream)` where it launches on the current stream of the tensors' device.
  template <class Launch>
  void launch_on_device(Steps steps, Launch launch) const {
    on_current_stream(like_.device(), [&](device::Stream stream) {
      launch(device::wants_buffers() ? buffers(steps) : std::vector<device::Buffer>(), stream);
    });
  }

  Math math(bool tf32) const { return math_of(like_.scalar_type(), tf32); }

  // The launch of all steps, to be made again with others in the place of the tensors `given`.
  Replay<Parameters> replay_of(Steps all, bool tf32, const std::vector<at::Tensor>& given) const {
    std::vector<RecordedUse> recorded;
    for (const Use& use : uses_) recorded.push_back({use.name, use.offset, use.tensor, access(use, all)});
    return {parameters_, math(tf32), recorded, given};
  }

  int vector() const { return 16 / static_cast<int>(like_.element_size()); }

  // Remembers what a pointer of the parameters leads to, and which step writes it (`input`: none).
  // `updated`: it is read before it is written.
  template <class Pointer>
  void use(const Name& name, Pointer& pointer, const at::Tensor& tensor, Step writer, bool updated = false) {
    pointer = static_cast<Pointer>(tensor.data_ptr());
    const auto offset = reinterpret_cast<const char*>(&pointer) - reinterpret_cast<const char*>(&parameters_);
    uses_.push_back({name, static_cast<std::size_t>(offset), tensor, writer, updated});
  }

  template <class Pointer>
  void use_input(const Name& name, Pointer& pointer, const OptionalTensor& tensor) {
    if (tensor) use(name, pointer, *tensor, Step::input);
  }

  // Memory of the call's own; its name in the emulator's reports ends like the pointer's.
  at::Tensor allocate(at::IntArrayRef sizes, c10::ScalarType type = c10::kFloat) const {
    return at::empty(sizes, like_.options().dtype(type).memory_format(c10::MemoryFormat::Contiguous));
  }

  // (rows, channels) of the call's own, of the activations' type.
  void use_rows(const Name& name, Activations& to, int rows, int channels, Step writer) {
    const at::Tensor image = allocate({rows, channels}, like_.scalar_type()).view({1, 1, rows, channels});
    to = activations(image.permute({0, 3, 1, 2}), 1, 1, rows);
    use(name, to.data, image, writer);
  }

  Parameters parameters_;

 private:
  struct Use {
    Name name;
    std::size_t offset;
    at::Tensor tensor;
    Step writer;
    bool updated;
  };

  std::vector<device::Buffer> buffers(Steps steps) const {
    std::vector<device::Buffer> buffers;
    for (const Use& use : uses_) {
      if (steps.second < use.writer) continue;
      const Extent extent(use.name, use.tensor);
      buffers.push_back({use.name, use.offset, extent.begin, extent.bytes(), access(use, steps)});
    }
    return buffers;
  }

  static device::Buffer::Access access(const Use& use, Steps steps) {
    using Access = device::Buffer::Access;
    if (use.writer < steps.first) return Access::read;
    return use.updated ? Access::read_write : Access::write;
  }

  at::Tensor like_;  // of the activations' device and type
  std::vector<Use> uses_;
};

}  // namespace fused_resnet::bindings
