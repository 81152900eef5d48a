// A launch that was described and checked once, to be made again with other tensors of the same sizes, strides and
// types: whatever was decided for it stays, and pointers are filled in.
#pragma once

#include <ATen/ops/empty.h>
#include <c10/core/DeviceGuard.h>
#include <c10/core/impl/VirtualGuardImpl.h>

#include <bindings/checks.h>
#include <bindings/layout.h>
#include <gradient.h>

#include <cstring>

namespace fused_resnet::bindings {

// Calls `launch(stream)` with the current stream of a device, where this module's launches go to it.
template <class Launch>
void on_current_stream(c10::Device device, Launch launch) {
  const c10::OptionalDeviceGuard guard(device);
  device::Stream stream{};
  if constexpr (device::on_gpu) {
    device::use_device(device.index());
    const c10::impl::VirtualGuardImpl implementation(device.type());
    stream = static_cast<device::Stream>(implementation.getStreamNativeHandle(implementation.getStream(device)));
  }
  launch(stream);
}

inline void launch_all(Math math, const Tail& tail, const std::vector<device::Buffer>& buffers, device::Stream stream) {
  launch_forward(math, Phase::all, tail, buffers, stream);
}

inline void launch_all(Math math, const TailGradient& gradient, const std::vector<device::Buffer>& buffers,
                       device::Stream stream) {
  launch_backward(math, GradientPhase::all, gradient, buffers, stream);
}

// What a pointer at `offset` bytes of the parameters led to.
struct RecordedUse {
  Name name;
  std::size_t offset;
  at::Tensor tensor;
  device::Buffer::Access access;
};

template <class Parameters>
class Replay {
 public:
  // Tensors that are used and not among those `given` are the call's own memory; undefined ones stand for none.
  Replay(const Parameters& parameters, Math math, const std::vector<RecordedUse>& uses,
         const std::vector<at::Tensor>& given)
      : parameters_(parameters), math_(math) {
    for (const RecordedUse& use : uses) slots_.push_back(slot_of(use, given));
  }

  // Whether all that the launch reads is given, or written by itself. A copy that was made for it is neither.
  bool is_complete() const {
    for (const Slot& slot : slots_)
      if (slot.given < 0 && slot.access != device::Buffer::Access::write) return false;
    return true;
  }

  // Whether a launch would write memory that is also behind another of the tensors given.
  bool overlaps(const std::vector<at::Tensor>& given) const {
    for (const Slot& written : slots_) {
      if (written.access != device::Buffer::Access::read_write) continue;
      const char* begin = static_cast<const char*>(given[written.given].const_data_ptr());
      for (const Slot& other : slots_) {
        if (other.given < 0 || other.given == written.given || other.access == device::Buffer::Access::write) continue;
        const char* its = static_cast<const char*>(given[other.given].const_data_ptr());
        if (begin < its + other.bytes && its < begin + written.bytes) return true;
      }
    }
    return false;
  }

  // Queues the launch with these tensors on the current stream of the device of `like`.
  void run(const at::Tensor& like, const std::vector<at::Tensor>& given) const {
    Parameters parameters = parameters_;
    at::Tensor workspace;
    if (workspace_bytes_ > 0)
      workspace =
          at::empty({workspace_bytes_}, like.options().dtype(c10::kByte).memory_format(c10::MemoryFormat::Contiguous));
    char* const own = workspace.defined() ? static_cast<char*>(workspace.data_ptr()) : nullptr;
    const bool described = device::wants_buffers();
    std::vector<device::Buffer> buffers;
    for (const Slot& slot : slots_) {
      void* const memory = slot.given < 0 ? own + slot.place : given[slot.given].data_ptr();
      std::memcpy(reinterpret_cast<char*>(&parameters) + slot.offset, &memory, sizeof memory);
      if (described) buffers.push_back({slot.name, slot.offset, memory, slot.bytes, slot.access});
    }
    on_current_stream(like.device(), [&](device::Stream stream) { launch_all(math_, parameters, buffers, stream); });
  }

 private:
  struct Slot {
    Name name;
    std::size_t offset;
    int given;           // -1: memory of the call's own
    std::int64_t place;  // in that memory
    std::size_t bytes;
    device::Buffer::Access access;
  };

  Slot slot_of(const RecordedUse& use, const std::vector<at::Tensor>& given) {
    Slot slot{use.name, use.offset, -1, 0, Extent(use.name, use.tensor).bytes(), use.access};
    for (std::size_t i = 0; i < given.size(); ++i)
      if (given[i].defined() && given[i].is_same(use.tensor)) slot.given = static_cast<int>(i);
    if (slot.given >= 0) return slot;
    slot.place = place_of(use.tensor, static_cast<std::int64_t>(slot.bytes));
    return slot;
  }

  // Memory that two pointers lead to gets one place.
  std::int64_t place_of(const at::Tensor& tensor, std::int64_t bytes) {
    for (const auto& [other, place] : places_)
      if (other == tensor.const_data_ptr()) return place;
    constexpr std::int64_t alignment = 256;
    const std::int64_t place = workspace_bytes_;
    places_.emplace_back(tensor.const_data_ptr(), place);
    workspace_bytes_ += (bytes + alignment - 1) / alignment * alignment;
    return place;
  }

  Parameters parameters_;
  Math math_;
  std::vector<Slot> slots_;
  std::vector<std::pair<const void*, std::int64_t>> places_;
  std::int64_t workspace_bytes_ = 0;
};

}  // namespace fused_resnet::bindings
