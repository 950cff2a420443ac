// The words and elementary functions of noise (csrc/math/philox.h): vectors in float32, scalars in float64.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>

#include "simd.h"

namespace iwae {
namespace IWAE_ISA {

template <class T>
struct NoiseMath {
  using Scalar = T;
  using Value = T;
  using Word = uint64_t;
  using Bits = uint32_t;

  static Word word(uint32_t x) { return x; }
  static Word product(Word x, uint32_t factor) { return (x & 0xffffffffu) * factor; }
  static Value value(Bits x) { return static_cast<T>(x); }
  static Value log(Value x) { return std::log(x); }
  static Value sqrt(Value x) { return std::sqrt(x); }
  static void cos_sin_of_turns(Value turns, Value& cosine, Value& sine) {
    const Value angle = T(6.283185307179586477) * turns;
    cosine = std::cos(angle);
    sine = std::sin(angle);
  }
};

template <>
struct NoiseMath<float> {
  using S = Simd<float>;
  using Scalar = float;
  using Value = typename S::Value;
  using Integer = typename S::Integer;
  typedef uint64_t Word __attribute__((vector_size(IWAE_VECTOR_BYTES)));
  typedef uint32_t Bits __attribute__((vector_size(IWAE_VECTOR_BYTES)));  // two lanes where a word has one

  static constexpr int kWords = IWAE_VECTOR_BYTES / 8;

  static Word word(uint32_t x) { return x - Word{}; }

  // x, x + 1, ...
  static Word words_from(uint32_t x) { return word(x) + count(WordLanes{}); }

  // The product of the lower halves of x, by intrinsics: compilers multiply all 64 bits, in several operations.
  static Word product(Word x, uint32_t factor) {
#if defined(__AVX512F__) && IWAE_VECTOR_BYTES == 64
    return (Word)_mm512_maskz_mul_epu32(0xff, (__m512i)x, (__m512i)word(factor));
#elif defined(__AVX2__) && IWAE_VECTOR_BYTES == 32
    return (Word)_mm256_mul_epu32((__m256i)x, (__m256i)word(factor));
#elif defined(__SSE2__) && IWAE_VECTOR_BYTES == 16
    return (Word)_mm_mul_epu32((__m128i)x, (__m128i)word(factor));
#else
    return (x & 0xffffffffu) * factor;
#endif
  }

  // even[0], odd[0], even[1], odd[1], ...
  static Bits in_turn(Word even, Word odd) {
    static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the lower half of a word is its first lane");
    return reinterpret_cast<Bits>((even & 0xffffffffu) | (odd << 32));
  }

  // The first and the second half of x[0], y[0], x[1], y[1], ...
  static void interleave(Value x, Value y, Value& low, Value& high) {
    low = shuffle<0>(x, y, Lanes{});
    high = shuffle<S::kLanes / 2>(x, y, Lanes{});
  }

  // For integers below 2^31: larger ones cannot be converted by one instruction before AVX-512.
  static Value value(Bits x) { return __builtin_convertvector(reinterpret_cast<Integer>(x), Value); }

  static Value sqrt(Value x) {
    for (int lane = 0; lane < S::kLanes; ++lane) x[lane] = std::sqrt(x[lane]);
    return x;
  }

  // log x for normal numbers x > 0; accurate to rounding also near 1.
  static Value log(Value x) {
    const Integer root_half = reinterpret_cast<Integer>(S::all(0.70710678f)), bits = reinterpret_cast<Integer>(x);
    const Integer exponent = (bits - root_half) >> 23;  // x = 2^exponent m with m in [sqrt(1/2), sqrt(2))
    const Value r = reinterpret_cast<Value>(bits - (exponent << 23)) - 1.0f;
    return __builtin_convertvector(exponent, Value) * 0.693147181f + r * polynomial(kLog, r);
  }

  // For angles in turns, in (0, 1). The reduction to at most an eighth of a turn from a whole quarter is exact.
  static void cos_sin_of_turns(Value turns, Value& cosine, Value& sine) {
    const Value quarters = 4.0f * turns, shifted = quarters + S::Lanes::kRoundingShift;
    const Bits quarter = reinterpret_cast<Bits>(shifted);  // modulo 4
    const Value t = quarters - (shifted - S::Lanes::kRoundingShift), square = t * t;
    const Value c = 1.0f + square * polynomial(kCos, square), s = t * polynomial(kSin, square);
    const auto odd = reinterpret_cast<Integer>(quarter << 31) < 0;
    // Bit 1 of the quarter is the sign of the sine; that of the cosine differs from it in odd quarters.
    cosine = flip_sign((quarter << 30) ^ (quarter << 31), odd ? s : c);
    sine = flip_sign(quarter << 30, odd ? c : s);
  }

 private:
  // Interpolated at Chebyshev nodes:
  // log(1 + r) / r on [sqrt(1/2) - 1, sqrt(2) - 1], to 7.5e-9, relative
  static constexpr float kLog[] = {0.999999999383f,  -0.499999884961f, 0.333333453498f,  -0.250015790992f,
                                   0.200009394404f,  -0.166083694141f, 0.141996500979f,  -0.132660313609f,
                                   0.12806610435f,   -0.0745118622676f};
  // with y = t^2 in [0, 1/4]: (cos(pi/2 t) - 1) / y, the cosine to 1.3e-8, and sin(pi/2 t) / t to 3.5e-8, relative
  static constexpr float kCos[] = {-1.23370054937f, 0.253669410357f, -0.0208615283422f, 0.000906739898403f};
  static constexpr float kSin[] = {1.57079632195f, -0.645963477665f, 0.0796802176478f, -0.00460214921281f};

  using Lanes = std::make_integer_sequence<int32_t, S::kLanes>;
  using WordLanes = std::make_integer_sequence<uint64_t, kWords>;

  template <uint64_t... kLane>
  static Word count(std::integer_sequence<uint64_t, kLane...>) {
    return Word{kLane...};
  }

  // An even number of terms, evaluated in pairs as in Simd::exp2_fraction.
  template <int kTerms>
  static Value polynomial(const float (&c)[kTerms], Value x) {
    const Value square = x * x;
    Value sum = c[kTerms - 1] * x + c[kTerms - 2];
    for (int i = kTerms - 4; i >= 0; i -= 2) sum = sum * square + (c[i + 1] * x + c[i]);
    return sum;
  }

  // -x where the sign bit of the flag is set
  static Value flip_sign(Bits flag, Value x) {
    return reinterpret_cast<Value>(reinterpret_cast<Bits>(x) ^ (flag & 0x80000000u));
  }

  template <int32_t kFirst, int32_t... kLane>
  static Value shuffle(Value x, Value y, std::integer_sequence<int32_t, kLane...>) {
#ifdef __clang__
    return __builtin_shufflevector(x, y, (kFirst + kLane / 2 + kLane % 2 * S::kLanes)...);
#else
    return __builtin_shuffle(x, y, Integer{(kFirst + kLane / 2 + kLane % 2 * S::kLanes)...});
#endif
  }
};

}  // namespace IWAE_ISA
}  // namespace iwae
