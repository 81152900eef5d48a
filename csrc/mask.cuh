// The mask of y's relu, by which backward makes g = dy where y > 0: bits, so that y is not read again.
#pragma once

#include <pairs.cuh>
#include <tile.cuh>

namespace fused_resnet {

// A vector of y's channels, which a relu gave, as one byte of the mask. NaN passes a gradient, as in PyTorch.
template <class Element, int V>
DEVICE std::uint8_t mask_byte(const Element (&values)[V]) {
  unsigned bits = 0;
  if constexpr (is_half<Element>) {
    // No half has a sign: the sum carries into it from all but zeros. Even elements' bits gather below, odd ones'
    // above.
#pragma unroll
    for (int i = 0; i < V; i += 2) bits |= ((pair_at(values, i) + 0x7fff7fffu) & 0x80008000u) >> (15 - i);
    bits |= bits >> 15;
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) bits |= values[i] <= 0.0f ? 0u : 1u << i;
  }
  return static_cast<std::uint8_t>(bits);
}

// The byte of the vector of a row that has this channel.
template <class Element>
DEVICE std::uint8_t* mask_place(const Mask& mask, int row, int channel) {
  constexpr unsigned vector = TileTraits<Element>::vector;
  return mask.bytes + static_cast<std::int64_t>(static_cast<unsigned>(row)) * static_cast<unsigned>(mask.pitch) +
         static_cast<unsigned>(channel) / vector;
}

// dy where the vector's i-th channel lets it pass.
template <class Element>
DEVICE Element masked(Element dy, unsigned bits, int i) {
  return (bits >> i & 1) != 0 ? dy : Element{};
}

// The same for a vector, from its first channel on.
template <class Element, int V>
DEVICE void mask_vector(Element (&dy)[V], unsigned bits) {
  if constexpr (is_half<Element>) {
#pragma unroll
    for (int i = 0; i < V; i += 4) {
      std::uint32_t passes[2];
      device::spread_bits(bits >> i, passes);
#pragma unroll
      for (int pair = 0; pair < 2; ++pair) set_pair(dy, i + 2 * pair, pair_at(dy, i + 2 * pair) & passes[pair]);
    }
  } else {
#pragma unroll
    for (int i = 0; i < V; ++i) dy[i] = masked(dy[i], bits, i);
  }
}

// The masks of a stage of g on their way to it, at `first`: a byte for each of a thread's two chunks of 16 bytes.
constexpr int stage_mask_bytes = 2 * block_threads;
template <class Element>
struct StageMask {
  SharedOffset first;

  // Chunks of four neighbouring threads, which lie side by side in a row, as their bytes do: the first thread, and
  // which of its two chunks.
  struct Four {
    int thread, number;
  };

  // Half of a warp's lanes copy: each the bytes of four chunks, which are number `four()` of the warp's.
  DEVICE static bool copies() { return device::lane_index() < 2 * groups; }
  DEVICE static Four four() {
    const int lane = device::lane_index();
    return {device::warp_index() * device::warp_size + lane % groups * 4, lane / groups % 2};
  }
  // How many of the four have channels, from this one on.
  DEVICE static int existing(const Tail& tail, int channel) {
    const int left = (tail.channels - channel) / TileTraits<Element>::vector;
    return left < 0 ? 0 : left < 4 ? left : 4;
  }
  // Starts the copy of `count` bytes of the lane's four; nothing is read where that is 0.
  DEVICE void copy(const std::uint8_t* from, int count) const {
    const auto [thread, number] = four();
    device::copy_async_4(place(thread, number), from, count);
  }

  // Masks a chunk of the thread's, which lies there. The warp has waited for its copies, and has met.
  DEVICE Vector16<Element> apply(int number, SharedOffset chunk) const {
    const unsigned bits = device::shared_load<std::uint8_t>(place(device::thread_index(), number));
    auto values = device::shared_load<Vector16<Element>>(chunk);
    mask_vector(values.values, bits);
    device::shared_store(chunk, values);
    return values;
  }

 private:
  static constexpr int groups = device::warp_size / 4;

  DEVICE SharedOffset place(int thread, int number) const { return first + number * block_threads + thread; }
};

}  // namespace fused_resnet
