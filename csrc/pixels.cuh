// Where rows lie in memory, and how tiles of rows come into shared memory: 16 bytes at once and asynchronously where
// the layout allows, element by element otherwise (NCHW, odd channel counts, any stride).
#pragma once

#include <tile.cuh>

namespace fused_resnet {

// Offset of a row's first channel, in elements.
DEVICE std::int64_t row_offset(const Tail& tail, const Activations& x, int row) {
  if (x.dense) return row * x.stride_w;
  const unsigned line = static_cast<unsigned>(row) / tail.width, w = row - line * tail.width;
  const unsigned n = line / tail.height, h = line - n * tail.height;
  return n * x.stride_n + h * x.stride_h + w * x.stride_w;
}

template <class Element>
DEVICE const Element* row_pointer(const Tail& tail, const Activations& x, int row) {
  return static_cast<const Element*>(x.data) + row_offset(tail, x, row);
}

// Byte offset of a chunk in an operand whose rows are 64 bytes of the summed dimension. The exclusive or spreads eight
// rows' chunks over all banks, as load_matrices wants it.
DEVICE device::SharedOffset row_chunk(int row, int chunk) { return row * 64 + (chunk ^ (row >> 1 & 3)) * 16; }

template <class Element>
DEVICE device::SharedOffset row_element(int row, int k) {
  constexpr int vector = TileTraits<Element>::vector;
  return row_chunk(row, k / vector) + k % vector * sizeof(Element);
}

// The rows of an operand that one thread copies: two where it copies chunks, one where it copies elements.
template <class Element>
struct RowOperand {
  using Traits = TileTraits<Element>;
  const Element* rows[2];
  bool valid[2];
  std::int64_t stride;  // along the summed dimension
  int depth;            // of the whole operand
  bool vectorised;
  bool rows_first;  // neighbouring threads copy neighbouring rows

  // `locate(i)` gives the pointer to row i of the tile; there are `count` rows, perhaps more than a tile.
  template <class Locate>
  DEVICE void set_rows(int count, const Element* any, Locate locate) {
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int row = vectorised ? chunk_row(i) : element_row();
      valid[i] = row < count;
      rows[i] = valid[i] ? locate(row) : any;
    }
  }

  DEVICE void copy(int k, device::SharedOffset to) const {
    if (vectorised) {
      copy_chunks(k, to);
    } else {
      copy_elements(k, to);
    }
  }

 private:
  DEVICE static int chunk_row(int i) { return device::thread_index() / Traits::row_chunks + i * tile_rows / 2; }
  DEVICE int element_row() const {
    return rows_first ? device::thread_index() % tile_rows : device::thread_index() / 2;
  }

  DEVICE void copy_chunks(int k, device::SharedOffset to) const {
    const int chunk = device::thread_index() % Traits::row_chunks;
    const int column = k + chunk * Traits::vector;
    // Half a tile of rows further, the swizzle is the same.
    const device::SharedOffset first = to + row_chunk(chunk_row(0), chunk);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool inside = valid[i] && column < depth;
      device::copy_async_16(first + i * tile_rows / 2 * 64, rows[i] + (inside ? column : 0), inside);
    }
  }

  DEVICE void copy_elements(int k, device::SharedOffset to) const {
    const int row = element_row();
    const int half = rows_first ? device::thread_index() / tile_rows : device::thread_index() % 2;
#pragma unroll 1
    for (int i = 0; i < Traits::depth / 2; ++i) {
      const int column = half * Traits::depth / 2 + i;
      const bool inside = valid[0] && k + column < depth;
      const Element value = inside ? device::global_load(rows[0] + (k + column) * stride) : Element{};
      device::shared_store(to + row_element<Element>(row, column), value);
    }
  }
};

// Rows [row, row + 128) of an input.
template <class Element>
DEVICE RowOperand<Element> input_rows(const Tail& tail, const Activations& x, int row) {
  RowOperand<Element> operand{{}, {}, x.stride_c, x.channels, x.vectorised, x.stride_c != 1};
  operand.set_rows(tail.rows - row, static_cast<const Element*>(x.data),
                   [&](int i) { return row_pointer<Element>(tail, x, row + i); });
  return operand;
}

// Rows [channel, channel + 128) of a weight.
template <class Element>
DEVICE RowOperand<Element> weight_rows(const Tail& tail, const Branch& branch, int channel) {
  const Matrix& w = branch.weight;
  const auto* data = static_cast<const Element*>(w.data);
  RowOperand<Element> operand{{}, {}, w.stride_k, branch.x.channels, w.vectorised, w.stride_k != 1};
  operand.set_rows(tail.channels - channel, data, [&](int i) { return data + (channel + i) * w.stride_c; });
  return operand;
}

// Copies pixels [row, row + depth) of channels [channel, channel + 128) to `to`, channels first; pixels from `end` on
// and channels that do not exist become zeros.
template <class Element>
DEVICE void copy_pixels(const Tail& tail, const Activations& x, int row, int end, int channel,
                        device::SharedOffset to) {
  using Traits = TileTraits<Element>;
  const auto* data = static_cast<const Element*>(x.data);
  const int thread = device::thread_index();
  if (x.vectorised) {
    const int chunk = thread % Traits::pixel_chunks;
    const int first = channel + chunk * Traits::vector;
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int pixel = thread / Traits::pixel_chunks + i * Traits::depth / 2;
      const bool inside = row + pixel < end && first < x.channels;
      device::copy_async_16(to + pixel * Traits::pixel_pitch + chunk * 16,
                            inside ? row_pointer<Element>(tail, x, row + pixel) + first : data, inside);
    }
    return;
  }
  constexpr int sharers = block_threads / Traits::depth;  // threads that copy one pixel
  const bool pixels_first = x.stride_c != 1;
  const int pixel = pixels_first ? thread % Traits::depth : thread / sharers;
  const int share = pixels_first ? thread / Traits::depth : thread % sharers;
  const bool exists = row + pixel < end;
  const Element* from = exists ? row_pointer<Element>(tail, x, row + pixel) : data;
#pragma unroll 1
  for (int i = 0; i < tile_columns / sharers; ++i) {
    const int c = share * (tile_columns / sharers) + i;
    const bool inside = exists && channel + c < x.channels;
    const Element value = inside ? device::global_load(from + (channel + c) * x.stride_c) : Element{};
    device::shared_store(to + pixel * Traits::pixel_pitch + c * static_cast<int>(sizeof(Element)), value);
  }
}

}  // namespace fused_resnet
