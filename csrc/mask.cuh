// The mask of y's relu, by which backward makes g = dy where y > 0: bits, so that y is not read again.
#pragma once

#include <tile.cuh>

namespace fused_resnet {

// A vector of y's channels as one byte of the mask. NaN passes a gradient, as in PyTorch.
template <class Element, int V>
DEVICE std::uint8_t mask_byte(const Element (&values)[V]) {
  unsigned bits = 0;
#pragma unroll
  for (int i = 0; i < V; ++i) bits |= (device::to_float(values[i]) <= 0.0f ? 0u : 1u) << i;
  return static_cast<std::uint8_t>(bits);
}

// The byte of the vector of a row that has this channel.
template <class Element>
DEVICE std::uint8_t* mask_place(const Mask& mask, int row, int channel) {
  constexpr unsigned vector = TileTraits<Element>::vector;
  return mask.bytes + static_cast<std::int64_t>(row) * mask.pitch + static_cast<unsigned>(channel) / vector;
}

// dy where the vector's i-th channel lets it pass.
template <class Element>
DEVICE Element masked(Element dy, unsigned bits, int i) {
  return (bits >> i & 1) != 0 ? dy : Element{};
}

// The masks of a stage of g on their way to it: a byte for each of a thread's two chunks of 16 bytes. Four neighbours'
// chunks lie side by side in a row, and so do their bytes.
constexpr int stage_mask_bytes = 2 * block_threads;
template <class Element>
struct StageMask {
  const Tail& tail;
  SharedOffset first;

  // Starts the copy that goes with the thread's chunk `number`, if it is the first of four.
  DEVICE void copy(int number, int row, int end, int channel) const {
    if (device::thread_index() % 4 != 0) return;
    const bool inside = row < end && channel < tail.channels;
    const int left = inside ? (tail.channels - channel) / TileTraits<Element>::vector : 0;
    device::copy_async_4(place(number), inside ? mask_place<Element>(tail.mask, row, channel) : tail.mask.bytes,
                         left < 4 ? left : 4);
  }

  // Masks a chunk of the thread's, which lies there. The warp has waited for its copies, and has met.
  DEVICE Vector16<Element> apply(int number, SharedOffset chunk) const {
    const unsigned bits = device::shared_load<std::uint8_t>(place(number));
    auto values = device::shared_load<Vector16<Element>>(chunk);
#pragma unroll
    for (int i = 0; i < Vector16<Element>::size; ++i) values.values[i] = masked(values.values[i], bits, i);
    device::shared_store(chunk, values);
    return values;
  }

 private:
  DEVICE SharedOffset place(int number) const { return first + number * block_threads + device::thread_index(); }
};

}  // namespace fused_resnet
