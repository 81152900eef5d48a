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
DEVICE SharedOffset row_chunk(int row, int chunk) { return row * 64 + (chunk ^ (row >> 1 & 3)) * 16; }

template <class Element>
DEVICE SharedOffset row_element(int row, int k) {
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

  DEVICE void copy(int k, SharedOffset to) const {
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

  DEVICE void copy_chunks(int k, SharedOffset to) const {
    const int chunk = device::thread_index() % Traits::row_chunks;
    const int column = k + chunk * Traits::vector;
    // Half a tile of rows further, the swizzle is the same.
    const SharedOffset first = to + row_chunk(chunk_row(0), chunk);
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const bool inside = valid[i] && column < depth;
      device::copy_async_16(first + i * tile_rows / 2 * 64, rows[i] + (inside ? column : 0), inside);
    }
  }

  DEVICE void copy_elements(int k, SharedOffset to) const {
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

// Rows [first, first + 128) of a (rows, depth) matrix.
template <class Element>
DEVICE RowOperand<Element> matrix_rows(const Matrix& matrix, int rows, int depth, int first) {
  const auto* data = static_cast<const Element*>(matrix.data);
  RowOperand<Element> operand{{}, {}, matrix.stride_k, depth, matrix.vectorised, matrix.stride_k != 1};
  operand.set_rows(rows - first, data, [&](int i) { return data + (first + i) * matrix.stride_c; });
  return operand;
}

// The chunks of a stage of pixels that a thread copies: number 0 and number 1.
template <class Element>
struct PixelChunk {
  using Traits = TileTraits<Element>;
  int pixel, column;

  DEVICE explicit PixelChunk(int number)
      : pixel(device::thread_index() / Traits::pixel_chunks + number * Traits::depth / 2),
        column(device::thread_index() % Traits::pixel_chunks * Traits::vector) {}

  DEVICE SharedOffset offset() const {
    return pixel * Traits::pixel_pitch + column * static_cast<int>(sizeof(Element));
  }
};

// Fills a stage element by element: `locate(row)` returns what gives the element of a channel of that pixel.
// `pixels_first`: neighbouring threads copy neighbouring pixels.
template <class Element, class Locate>
DEVICE void copy_pixel_elements(bool pixels_first, int row, int end, int channel, int channels, Locate locate,
                                SharedOffset to) {
  using Traits = TileTraits<Element>;
  constexpr int sharers = block_threads / Traits::depth;  // threads that copy one pixel
  const int thread = device::thread_index();
  const int pixel = pixels_first ? thread % Traits::depth : thread / sharers;
  const int share = pixels_first ? thread / Traits::depth : thread % sharers;
  const bool exists = row + pixel < end;
  const auto element = locate(exists ? row + pixel : 0);
#pragma unroll 1
  for (int i = 0; i < tile_columns / sharers; ++i) {
    const int c = share * (tile_columns / sharers) + i;
    const Element value = exists && channel + c < channels ? element(channel + c) : Element{};
    device::shared_store(to + pixel * Traits::pixel_pitch + c * static_cast<int>(sizeof(Element)), value);
  }
}

// Copies pixels [row, row + depth) of channels [channel, channel + 128) to `to`, channels first; pixels from `end` on
// and channels that do not exist become zeros.
template <class Element>
DEVICE void copy_pixels(const Tail& tail, const Activations& x, int row, int end, int channel, SharedOffset to) {
  if (!x.vectorised) {
    const auto locate = [&](int from) {
      const Element* pixel = row_pointer<Element>(tail, x, from);
      return [pixel, stride = x.stride_c](int c) { return device::global_load(pixel + c * stride); };
    };
    return copy_pixel_elements<Element>(x.stride_c != 1, row, end, channel, x.channels, locate, to);
  }
  const auto* data = static_cast<const Element*>(x.data);
#pragma unroll
  for (int i = 0; i < 2; ++i) {
    const PixelChunk<Element> chunk(i);
    const int first = channel + chunk.column;
    const bool inside = row + chunk.pixel < end && first < x.channels;
    device::copy_async_16(to + chunk.offset(), inside ? row_pointer<Element>(tail, x, row + chunk.pixel) + first : data,
                          inside);
  }
}

}  // namespace fused_resnet
