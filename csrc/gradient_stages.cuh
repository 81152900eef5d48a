// g = dy where y > 0 on its way from memory to sums over the rows: stage after stage of pixels.
#pragma once

#include <gradient_items.h>
#include <mask.cuh>
#include <pixels.cuh>

namespace fused_resnet {

// The gradient of a sum of branches, made from dy on its way from memory.
template <class Element>
struct Incoming {
  using Vector = Vector16<Element>;
  using Traits = PixelTraits<Element, wide>;

  const TailGradient& gradient;
  bool writes;  // g

  // A pixel's channels one by one.
  DEVICE auto at(int row) const {
    const Tail& tail = gradient.tail;
    const Activations& from = gradient.dy;
    const Element* dy = row_pointer<Element>(tail, from, row);
    const std::uint8_t* mask = tail.relu ? mask_place<Element>(tail.mask, row, 0) : nullptr;
    Element* g = writes ? const_cast<Element*>(row_pointer<Element>(tail, gradient.g, row)) : nullptr;
    return [this, dy, mask, g](int c) {
      Element value = device::global_load(dy + c * gradient.dy.stride_c);
      if (mask != nullptr) value = masked(value, device::global_load(mask + c / Vector::size), c % Vector::size);
      if (g != nullptr) device::global_store(g + c * gradient.g.stride_c, value);
      return value;
    };
  }

  // For `pipeline`: the pixels from `row` on come to the stage's first operand.
  DEVICE void load(int row, int end, int channel, SharedOffset stage) const {
    const Tail& tail = gradient.tail;
    if (!gradient.vectorised) {
      const auto locate = [this](int pixel) { return at(pixel); };
      return copy_pixel_elements<Element, Traits>(gradient.dy.stride_c != 1, row, end, channel, tail.channels, locate,
                                                  stage);
    }
    copy_pixels<Element, Traits>(tail, gradient.dy, row, end, channel, stage);
    if (!tail.relu) return;
    if (!StageMask<Element>::copies()) return;
    const auto [thread, number] = StageMask<Element>::four();
    const PixelChunk<Traits> chunk(thread, number);
    const int pixel = row + chunk.pixel, first = channel + chunk.column;
    const bool exists = pixel < end;
    mask_of(stage).copy(exists ? mask_place<Element>(tail.mask, pixel, first) : tail.mask.bytes,
                        exists ? StageMask<Element>::existing(tail, first) : 0);
  }

  // Masks what this thread has copied, and writes it to g.
  DEVICE void prepare(int row, int end, int channel, SharedOffset stage) const {
    const Tail& tail = gradient.tail;
    if (!gradient.vectorised || !tail.relu) return;
    device::warp_sync();
    Vector values[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const PixelChunk<Traits> chunk(device::thread_index(), i);
      values[i] = mask_of(stage).apply(i, stage + chunk.offset());
    }
    if (!writes) return;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const PixelChunk<Traits> chunk(device::thread_index(), i);
      const int pixel = row + chunk.pixel, first = channel + chunk.column;
      if (pixel >= end || first >= tail.channels) continue;
      const Element* g = row_pointer<Element>(tail, gradient.g, pixel) + first;
      device::global_store(reinterpret_cast<Vector*>(const_cast<Element*>(g)), values[i]);
    }
  }

  DEVICE static StageMask<Element> mask_of(SharedOffset stage) { return {stage + 2 * operand_bytes}; }
};

// Stages of g where dy is dense and comes 16 bytes at a time, and its masks in fours: as `DenseStages`.
template <class Element>
class DenseGradientStages {
 public:
  using Traits = PixelTraits<Element, wide>;
  using Stages = DenseStages<Element, Traits>;

  DEVICE static bool takes(const TailGradient& gradient) {
    constexpr int four = 4 * Traits::vector;  // channels that one copy has the masks of
    return gradient.vectorised && Stages::takes(gradient.dy) &&
           (!gradient.tail.relu || gradient.tail.channels % four == 0);
  }

  DEVICE DenseGradientStages(const TailGradient& gradient, int row, int channel)
      : tail_(gradient.tail), dy_(gradient.dy, row, channel) {
    if (!tail_.relu) return;
    const auto [thread, number] = StageMask<Element>::four();
    const PixelChunk<Traits> chunk(thread, number);
    pixel_ = channel + chunk.column < tail_.channels ? chunk.pixel : no_pixel;
    next_mask_ = mask_place<Element>(tail_.mask, row + chunk.pixel, channel + chunk.column);
  }

  // Copies the next stage, of which `pixels` exist; the thread's first chunk comes to `to`.
  DEVICE void copy(int pixels, SharedOffset stage, SharedOffset to) {
    dy_.copy(pixels, to);
    if (!tail_.relu) return;
    if (StageMask<Element>::copies()) Incoming<Element>::mask_of(stage).copy(next_mask_, pixel_ < pixels ? 4 : 0);
    next_mask_ += Traits::depth * static_cast<std::int64_t>(tail_.mask.pitch);
  }

 private:
  const Tail& tail_;
  Stages dy_;
  int pixel_ = 0;  // of the first chunk whose masks this thread copies, where these have channels
  const std::uint8_t* next_mask_ = nullptr;
};

}  // namespace fused_resnet
