// Where rows lie in memory, and how tiles of rows come into shared memory: 16 bytes at once and asynchronously where
// the layout allows, element by element otherwise (NCHW, odd channel counts, any stride).
#pragma once

#include <tile.cuh>

namespace fused_resnet {

DEVICE unsigned divide(unsigned n, Divider by) {
  const auto high = static_cast<unsigned>(static_cast<std::uint64_t>(n) * by.multiplier >> 32);
  return (high + n) >> by.shift;
}

// Where a row's pixel is.
struct Pixel {
  unsigned n, h, w;

  DEVICE Pixel(const Tail& tail, int row) {
    const unsigned line = divide(row, tail.by_width);
    w = row - line * tail.by_width.divisor;
    n = divide(line, tail.by_height);
    h = line - n * tail.by_height.divisor;
  }
};

// Offset of a row's first channel, in elements.
DEVICE std::int64_t row_offset(const Tail& tail, const Activations& x, int row) {
  if (x.dense) return static_cast<unsigned>(row) * x.stride_w;
  const Pixel pixel(tail, row);
  return pixel.n * x.stride_n + pixel.h * x.stride_h + pixel.w * x.stride_w;
}

template <class Element>
DEVICE const Element* row_pointer(const Tail& tail, const Activations& x, int row) {
  return static_cast<const Element*>(x.data) + row_offset(tail, x, row);
}

// Byte offset of a chunk in an operand whose rows are 64 bytes of the summed dimension. The exclusive or spreads over
// all banks the chunks of eight rows that follow each other, and those of the rows whose channels one lane holds in the
// end (products.cuh, LaneColumns).
DEVICE constexpr int swizzle(int row) { return (row >> 1 ^ row >> 3) & 3; }
DEVICE SharedOffset row_chunk(int row, int chunk) { return row * 64 + (chunk ^ swizzle(row)) * 16; }

// From the chunk of a row that is `at` to the same one `rows` further down, none of whose bits the row has set.
DEVICE SharedOffset further_down(SharedOffset at, int rows) { return (at ^ swizzle(rows) * 16) + rows * 64; }

// From a row's chunk that is `at`, number 0 or 1, to the one an even number further.
DEVICE SharedOffset chunk_further(SharedOffset at, int chunks) { return at ^ chunks * 16; }

template <class Element>
DEVICE SharedOffset row_element(int row, int k) {
  constexpr int vector = TileTraits<Element>::vector;
  return row_chunk(row, k / vector) + k % vector * sizeof(Element);
}

// How an operand's rows lie in memory: `depth` elements along the summed dimension, so far apart.
struct RowLayout {
  int rows, depth;
  std::int64_t stride;
  bool vectorised;
  int halves;  // of a tile of rows that are copied: 1 where nobody reads the second
};

// Rows of an activation from `row` on, and of a matrix from `first` on. Where row i does not exist, `at(i)` leads
// nowhere. `further`: from row i, where `from` is, so many rows down.
template <class Element>
struct PixelRows {
  const Tail& tail;
  const Activations& x;
  int row;

  DEVICE const Element* at(int i) const { return row_pointer<Element>(tail, x, row + i); }
  DEVICE const Element* further(const Element* from, int i, int rows) const {
    return x.dense ? from + rows * x.stride_w : at(i + rows);
  }
};

template <class Element>
DEVICE const Element* matrix_row(const Matrix& matrix, int row) {
  return static_cast<const Element*>(matrix.data) + static_cast<unsigned>(row) * matrix.stride_c;
}

template <class Element>
struct MatrixRows {
  const Matrix& matrix;
  int first;

  DEVICE const Element* at(int i) const { return matrix_row<Element>(matrix, first + i); }
  DEVICE const Element* further(const Element* from, int, int rows) const { return from + rows * matrix.stride_c; }
};

// The elements of a stage of rows that a thread copies one by one.
template <class Element>
struct HalfRow {
  static constexpr int elements = TileTraits<Element>::depth / 2;
  int row, first;

  // `stride`: between a row's elements. Neighbouring threads copy neighbouring rows where these lie apart.
  DEVICE explicit HalfRow(std::int64_t stride) {
    const int thread = device::thread_index();
    row = stride != 1 ? thread % tile_rows : thread / 2;
    first = (stride != 1 ? thread / tile_rows : thread % 2) * elements;
  }
};

// Copies 64 bytes of each of up to 128 rows to `to`, from element k on, which may lie ahead of the first: what does not
// exist becomes zeros. `groups`: the same again from so many times a warp's columns further, an operand each. Keeps
// nothing from one step to the next: registers that held pointers would be missed where the products are.
template <class Element, int groups, class Rows>
DEVICE void copy_rows(const RowLayout& layout, const Rows& rows, int k, SharedOffset to) {
  using Traits = TileTraits<Element>;
  const int thread = device::thread_index();
  if (layout.vectorised) {
    constexpr int half = tile_rows / 2;
    const int own = thread / Traits::row_chunks, chunk = thread % Traits::row_chunks;
    const auto copy = [&](int row, const Element* from, SharedOffset at) {
#pragma unroll
      for (int group = 0; group < groups; ++group) {
        const int column = k + chunk * Traits::vector + group * warp_columns;
        device::copy_async_16(at + group * operand_bytes, from + column,
                              row < layout.rows && column >= 0 && column < layout.depth);
      }
    };
    const SharedOffset first = to + row_chunk(own, chunk);
    const Element* from = rows.at(own);
    copy(own, from, first);
    if (layout.halves == 1) return;
    // Half a tile of rows further, the swizzle is the same.
    copy(own + half, rows.further(from, own, half), first + half * 64);
    return;
  }
  using Half = HalfRow<Element>;
  const Half own(layout.stride);
  const Element* from = rows.at(own.row);
  const std::int64_t stride = device::unforeseen(layout.stride);
#pragma unroll 1
  for (int i = 0; i < groups * Half::elements; ++i) {
    const int group = i / Half::elements, place = own.first + i % Half::elements;
    const int column = k + place + group * warp_columns;
    const bool inside = own.row < layout.rows && column >= 0 && column < layout.depth;
    const Element value = inside ? device::global_load(from + column * stride) : Element{};
    device::shared_store(to + group * operand_bytes + row_element<Element>(own.row, place), value);
  }
}

// The same for rows [row, row + 128) of an activation.
template <class Element, int groups = 1>
DEVICE void copy_pixel_rows(const Tail& tail, const Activations& x, int row, int k, SharedOffset to) {
  copy_rows<Element, groups>({tail.rows - row, x.channels, x.stride_c, x.vectorised, 2},
                             PixelRows<Element>{tail, x, row}, k, to);
}

// The same for rows [first, first + 128) of a (rows, depth) matrix. Warps whose columns these are not have no work.
template <class Element>
DEVICE void copy_matrix_rows(const Matrix& matrix, int rows, int depth, int first, int k, SharedOffset to) {
  const int left = rows - first;
  copy_rows<Element, 1>({left, depth, matrix.stride_k, matrix.vectorised, left > warp_columns ? 2 : 1},
                        MatrixRows<Element>{matrix, first}, k, to);
}
static_assert(tile_columns == 2 * warp_columns, "half a tile of a matrix' rows is a warp's columns");

// In place of the pixel of a chunk whose channels do not exist.
constexpr int no_pixel = 1 << 30;

// The chunks of a stage of pixels that each thread copies: number 0 and number 1.
template <class Traits>
struct PixelChunk {
  int pixel, column;

  DEVICE PixelChunk(int thread, int number)
      : pixel(thread / Traits::chunks + number * Traits::depth / 2), column(thread % Traits::chunks * Traits::vector) {}

  DEVICE SharedOffset offset() const { return pixel * Traits::pitch + column * (16 / Traits::vector); }
};

// Fills a stage element by element: `locate(row)` returns what gives the element of a channel of that pixel.
// `pixels_first`: neighbouring threads copy neighbouring pixels.
template <class Element, class Traits, class Locate>
DEVICE void copy_pixel_elements(bool pixels_first, int row, int end, int channel, int channels, Locate locate,
                                SharedOffset to) {
  constexpr int sharers = block_threads / Traits::depth;  // threads that copy one pixel
  const int thread = device::thread_index();
  const int pixel = pixels_first ? thread % Traits::depth : thread / sharers;
  const int share = pixels_first ? thread / Traits::depth : thread % sharers;
  const bool exists = row + pixel < end;
  const auto element = locate(exists ? row + pixel : 0);
#pragma unroll 1
  for (int i = 0; i < Traits::columns / sharers; ++i) {
    const int c = share * (Traits::columns / sharers) + i;
    const Element value = exists && channel + c < channels ? element(channel + c) : Element{};
    device::shared_store(to + pixel * Traits::pitch + c * static_cast<int>(sizeof(Element)), value);
  }
}

// Copies each thread's chunks of a stage of pixels, whose channels begin at `channel` of all: of so many pixels.
template <class Traits, class Rows>
DEVICE void copy_pixel_chunks(const Rows& rows, int pixels, int channel, int channels, SharedOffset to) {
  constexpr int half = Traits::depth / 2;
  const PixelChunk<Traits> chunk(device::thread_index(), 0);
  const int first = channel + chunk.column;
  const auto* from = rows.at(chunk.pixel);
  device::copy_async_16(to + chunk.offset(), from + first, chunk.pixel < pixels && first < channels);
  device::copy_async_16(to + chunk.offset() + half * Traits::pitch, rows.further(from, chunk.pixel, half) + first,
                        chunk.pixel + half < pixels && first < channels);
}

// Copies pixels from `row` on, channels from `channel` on, as many as a stage has, to `to`; pixels from `end` on and
// channels that do not exist become zeros.
template <class Element, class Traits>
DEVICE void copy_pixels(const Tail& tail, const Activations& x, int row, int end, int channel, SharedOffset to) {
  if (!x.vectorised) {
    const auto locate = [&](int from) {
      const Element* pixel = row_pointer<Element>(tail, x, from);
      return [pixel, stride = x.stride_c](int c) { return device::global_load(pixel + c * stride); };
    };
    return copy_pixel_elements<Element, Traits>(x.stride_c != 1, row, end, channel, x.channels, locate, to);
  }
  copy_pixel_chunks<Traits>(PixelRows<Element>{tail, x, row}, end - row, channel, x.channels, to);
}

// A thread's chunks of stage after stage of pixels, where rows are dense and come 16 bytes at a time: its addresses
// follow from those of the stage before. To find them anew takes three times the instructions.
template <class Element, class Traits>
class DenseStages {
 public:
  DEVICE static bool takes(const Activations& x) { return x.dense && x.vectorised; }

  // The first stage begins at pixel `row`; its first column is channel `channel`.
  DEVICE DenseStages(const Activations& x, int row, int channel) : x_(x) {
    const PixelChunk<Traits> chunk(device::thread_index(), 0);
    const int first = channel + chunk.column;
    pixel_ = first < x.channels ? chunk.pixel : no_pixel;
    next_ = static_cast<const Element*>(x.data) + (static_cast<unsigned>(row) + chunk.pixel) * x.stride_w + first;
  }

  // Copies the next stage, of which `pixels` exist; the thread's first chunk comes to `to`.
  DEVICE void copy(int pixels, SharedOffset to) {
    constexpr int half = Traits::depth / 2;
    device::copy_async_16(to, next_, pixel_ < pixels);
    device::copy_async_16(to + half * Traits::pitch, next_ + half * x_.stride_w, pixel_ + half < pixels);
    next_ += Traits::depth * x_.stride_w;
  }

 private:
  const Activations& x_;
  int pixel_;  // of the first chunk, where it has channels
  const Element* next_;
};

}  // namespace fused_resnet
