// Products of small matrices on tensor cores: m16n8k8 in TF32, whose operands have 10 bits after the point.
//
// Float32 accuracy takes three products: with a = a1 + a2 and b = b1 + b2, each part rounded to TF32, a b is a2 b1 +
// a1 b2 + a1 b1 to 2^-21.
#pragma once

#include "../device.h"

namespace iwae {
namespace IWAE_ISA {

// The elements of a lane, for lane = 4 g + t: of A (16 x 8) those at (g, t), (g + 8, t), (g, t + 4), (g + 8, t + 4);
// of B (8 x 8) those at (t, g), (t + 4, g); of the sums (16 x 8) those at (g, 2t), (g, 2t + 1), (g + 8, 2t),
// (g + 8, 2t + 1).
constexpr int kTileRows = 16, kTileColumns = 8, kTileInner = 8;

}  // namespace IWAE_ISA
}  // namespace iwae

#ifdef __CUDACC__

namespace iwae {
namespace IWAE_ISA {

__device__ __forceinline__ unsigned as_tf32(float x) {
  unsigned rounded;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(rounded) : "f"(x));
  return rounded;
}

__device__ __forceinline__ void multiply_tf32(float (&sum)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  asm("mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// Rounds numbers to TF32, and what that leaves to TF32, too, if three products are wanted.
template <int kProducts, int kCount>
__device__ __forceinline__ void split(const float (&x)[kCount], unsigned (&high)[kCount], unsigned (&low)[kCount]) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    high[i] = as_tf32(x[i]);
    if (kProducts == 3) low[i] = as_tf32(x[i] - __uint_as_float(high[i]));
  }
}

// Adds a (kRows x 16, 8) times b (8, kColumns x 8) to the sums.
template <int kProducts, int kRows, int kColumns>
__device__ __forceinline__ void multiply(float (&sum)[kRows][kColumns][4], const float (&a)[kRows][4],
                                         const float (&b)[kColumns][2]) {
  unsigned a_high[kRows][4], a_low[kRows][4], b_high[kColumns][2], b_low[kColumns][2];
#pragma unroll
  for (int r = 0; r < kRows; ++r) split<kProducts>(a[r], a_high[r], a_low[r]);
#pragma unroll
  for (int c = 0; c < kColumns; ++c) split<kProducts>(b[c], b_high[c], b_low[c]);
  if (kProducts == 3) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) multiply_tf32(sum[r][c], a_low[r], b_high[c]);
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int c = 0; c < kColumns; ++c) multiply_tf32(sum[r][c], a_high[r], b_low[c]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
#pragma unroll
    for (int c = 0; c < kColumns; ++c) multiply_tf32(sum[r][c], a_high[r], b_high[c]);
  }
}

}  // namespace IWAE_ISA
}  // namespace iwae

#endif
