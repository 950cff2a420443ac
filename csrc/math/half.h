// 16-bit floating-point numbers in memory: read exactly, written with rounding to nearest, ties to even.
#pragma once

#include <cstdint>
#include <cstring>

#include "inline.h"

namespace iwae {
namespace IWAE_ISA {

IWAE_INLINE float bits_to_float(uint32_t bits) {
  float x;
  memcpy(&x, &bits, sizeof x);
  return x;
}

IWAE_INLINE uint32_t float_to_bits(float x) {
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  return bits;
}

// Two numbers, rounded to Half, in a word: the first in its low half.
template <class Half>
IWAE_INLINE uint32_t both(float low, float high) {
  return Half::from(low).bits | uint32_t{Half::from(high).bits} << 16;
}

struct BFloat16 {
  uint16_t bits;

  IWAE_EVERYWHERE operator float() const { return bits_to_float(uint32_t{bits} << 16); }

  IWAE_EVERYWHERE static BFloat16 from(float x) {
#ifdef __CUDA_ARCH__
    BFloat16 rounded;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(x));
    return rounded;
#else
    const uint32_t bits = float_to_bits(x);
    if (x != x) return {static_cast<uint16_t>((bits >> 16) | 0x40)};  // keep a NaN a NaN
    return {static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16)};
#endif
  }

  // Two numbers in a word, the first in its low half: one instruction per number, and one for both of a pair.
  IWAE_EVERYWHERE static void unpack(uint32_t word, float& low, float& high) {
    low = bits_to_float(word << 16);
    high = bits_to_float(word & 0xffff0000u);
  }
  IWAE_EVERYWHERE static uint32_t pack(float low, float high) {
#ifdef __CUDA_ARCH__
    uint32_t word;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
#else
    return both<BFloat16>(low, high);
#endif
  }
};

struct Float16 {
  uint16_t bits;

  IWAE_EVERYWHERE operator float() const {
#ifdef __CUDA_ARCH__
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
#else
    const uint32_t sign = uint32_t{bits & 0x8000u} << 16, magnitude = bits & 0x7fffu;
    if (magnitude >= 0x7c00) return bits_to_float(sign | 0x7f800000u | (magnitude << 13));
    // The exponent biases differ by 112: multiplying by 2^112 corrects for it, subnormal numbers included.
    return bits_to_float(sign | float_to_bits(bits_to_float(magnitude << 13) * 5.192296858534828e33f));
#endif
  }

  IWAE_EVERYWHERE static Float16 from(float x) {
#ifdef __CUDA_ARCH__
    Float16 rounded;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(rounded.bits) : "f"(x));
    return rounded;
#else
    const uint32_t bits = float_to_bits(x), sign = (bits >> 16) & 0x8000u;
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) return {static_cast<uint16_t>(sign | 0x7e00u)};
    if (magnitude >= 0x477ff000u) return {static_cast<uint16_t>(sign | 0x7c00u)};  // 65520 and above round to inf
    if (magnitude < 0x38800000u) {  // subnormal: adding 1/2 lets the addition round at 2^-24
      magnitude = float_to_bits(bits_to_float(magnitude) + 0.5f) - float_to_bits(0.5f);
    } else {
      magnitude = (magnitude - (112u << 23) + 0xfff + ((magnitude >> 13) & 1)) >> 13;
    }
    return {static_cast<uint16_t>(sign | magnitude)};
#endif
  }

  IWAE_EVERYWHERE static void unpack(uint32_t word, float& low, float& high) {
#ifdef __CUDA_ARCH__
    asm("{\n"
        ".reg .b16 l, h;\n"
        "mov.b32 {l, h}, %2;\n"
        "cvt.f32.f16 %0, l;\n"
        "cvt.f32.f16 %1, h;\n"
        "}"
        : "=f"(low), "=f"(high)
        : "r"(word));
#else
    low = Float16{static_cast<uint16_t>(word & 0xffffu)};
    high = Float16{static_cast<uint16_t>(word >> 16)};
#endif
  }
  IWAE_EVERYWHERE static uint32_t pack(float low, float high) {
#ifdef __CUDA_ARCH__
    uint32_t word;
    asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(word) : "f"(high), "f"(low));
    return word;
#else
    return both<Float16>(low, high);
#endif
  }
};

}  // namespace IWAE_ISA
}  // namespace iwae
