// Tensor-core products and the loads that bring their operands into place. Fragment layouts are those of the PTX ISA,
// "Matrix multiply-accumulate operation using mma instruction", with lane = 4 g + t:
//
//   accumulator (16 x 8)     d[0], d[1]: row g, columns 2t, 2t + 1       d[2], d[3]: row g + 8
//   A, 16-bit (16 x 16)      a[0]: row g, k 2t, 2t + 1    a[1]: row g + 8    a[2], a[3]: the same with k + 8
//   B, 16-bit (16 x 8)       b[0]: k 2t, 2t + 1, column g                    b[1]: k + 8
//   A, tf32 (16 x 8)         a[0]: row g, k t             a[1]: row g + 8    a[2], a[3]: the same with k + 4
//   B, tf32 (8 x 8)          b[0]: k t, column g                             b[1]: k + 4
#pragma once

#include <scalar.h>

#include <device/memory.cuh>

namespace fused_resnet::device {

// Four 8 x 8 matrices of 16-bit elements (or 8 x 4 of 32-bit ones). Lane 8 i + r passes the offset of row r, 16 bytes,
// of matrix i; r[i] receives row g, elements 2t and 2t + 1 (32-bit: element t) of matrix i.
DEVICE void load_matrices(std::uint32_t (&r)[4], SharedOffset row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// The same for transposed matrices of 16-bit elements: r[i] receives rows 2t and 2t + 1, element g of matrix i.
DEVICE void load_matrices_transposed(std::uint32_t (&r)[4], SharedOffset row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// d += a b. A type of element chooses the instruction; Tf32 stands for floats of which the tensor cores read 19 bits.
struct Tf32 {};

template <class Element>
DEVICE void mma(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]);

template <>
DEVICE void mma<BFloat16>(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
DEVICE void mma<Float16>(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}
template <>
DEVICE void mma<Tf32>(float (&d)[4], const std::uint32_t (&a)[4], const std::uint32_t (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

}  // namespace fused_resnet::device
