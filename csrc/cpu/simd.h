// Vectors of the widest kind that this translation unit is compiled for, by the compilers' vector extensions, so that
// every instruction set and ARM share one source. Only max and min are intrinsics on x86: compilers do not find them.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <immintrin.h>
#endif

#ifndef IWAE_VECTOR_BYTES
#if defined(__AVX512F__)
#define IWAE_VECTOR_BYTES 64
#elif defined(__AVX2__)
#define IWAE_VECTOR_BYTES 32
#else
#define IWAE_VECTOR_BYTES 16
#endif
#endif

namespace iwae {
namespace IWAE_ISA {

template <class T>
struct Vector;

template <>
struct Vector<float> {
  typedef float Value __attribute__((vector_size(IWAE_VECTOR_BYTES)));
  typedef int32_t Integer __attribute__((vector_size(IWAE_VECTOR_BYTES)));
  typedef double Wide __attribute__((vector_size(2 * IWAE_VECTOR_BYTES)));
  static constexpr int kLanes = IWAE_VECTOR_BYTES / 4;
  static constexpr int kMantissa = 23, kBias = 127;
  static constexpr float kLn2 = 0.693147180559945f;
  static constexpr float kRoundingShift = 12582912.0f;        // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLn2High = 0.693359375f;             // exact in few bits, so n * kLn2High is exact
  static constexpr float kLn2Low = -2.12194440e-4f;
  static constexpr float kExpLowest = -110.0f, kExpHighest = 90.0f;  // exp is 0 below and inf above
  static constexpr float kNormal = 87.3f;                            // exp of +-x is a normal number up to here
  static constexpr int kTerms = 5;
  // (exp(r) - 1 - r) / r^2 on |r| <= ln(2) / 2, interpolated at Chebyshev nodes: exp to 1.1e-8, relative
  static constexpr float kExp[kTerms] = {0.5f, 0.16666577025598f, 0.04166655466205f, 0.00836317307451f,
                                         0.00139261761199f};
};

template <>
struct Vector<double> {
  typedef double Value __attribute__((vector_size(IWAE_VECTOR_BYTES)));
  typedef int64_t Integer __attribute__((vector_size(IWAE_VECTOR_BYTES)));
  typedef double Wide __attribute__((vector_size(IWAE_VECTOR_BYTES)));
  static constexpr int kLanes = IWAE_VECTOR_BYTES / 8;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kLn2 = 0.69314718055994530942;
  static constexpr double kRoundingShift = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 0.693147180369123816490;
  static constexpr double kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kExpLowest = -750.0, kExpHighest = 710.0;
  static constexpr double kNormal = 708.0;
  static constexpr int kTerms = 10;
  // as above: exp to 1.7e-17, relative
  static constexpr double kExp[kTerms] = {
      0.50000000000000010211,   0.16666666666666667452,    0.041666666666624161903, 0.0083333333333300644495,
      0.0013888888917196719077, 0.00019841269863040545271, 2.4801521322368693e-5,   2.7557268480310025526e-6,
      2.7620075879983366586e-7, 2.5100375832561233664e-8};
};

template <class T>
struct Simd {
  using Scalar = T;
  using Lanes = Vector<T>;
  using Value = typename Lanes::Value;
  using Integer = typename Lanes::Integer;
  using Wide = typename Lanes::Wide;
  static constexpr int kLanes = Lanes::kLanes;

  static Value all(T x) { return x - Value{}; }
  static Value zero() { return Value{}; }
  static Value one() { return all(T(1)); }
  static Value half() { return all(T(0.5)); }

  static Value load(const T* from) {
    Value v;
    std::memcpy(&v, from, sizeof v);
    return v;
  }
  static void store(T* to, Value v) { std::memcpy(to, &v, sizeof v); }
  static Wide widen(Value v) { return __builtin_convertvector(v, Wide); }

  static double sum(Wide v) {
    double total = 0.0;
    for (int lane = 0; lane < kLanes; ++lane) total += v[lane];
    return total;
  }
  static double product(Wide v) {
    double total = 1.0;
    for (int lane = 0; lane < kLanes; ++lane) total *= v[lane];
    return total;
  }

  // A NaN in the first argument comes back.
  static Value max(Value x, Value y) {
#ifdef __SSE2__
    if constexpr (kFloat && IWAE_VECTOR_BYTES == 16) return (Value)_mm_max_ps((__m128)y, (__m128)x);
    if constexpr (!kFloat && IWAE_VECTOR_BYTES == 16) return (Value)_mm_max_pd((__m128d)y, (__m128d)x);
#endif
#ifdef __AVX__
    if constexpr (kFloat && IWAE_VECTOR_BYTES == 32) return (Value)_mm256_max_ps((__m256)y, (__m256)x);
    if constexpr (!kFloat && IWAE_VECTOR_BYTES == 32) return (Value)_mm256_max_pd((__m256d)y, (__m256d)x);
#endif
    return x < y ? y : x;
  }
  static Value min(Value x, Value y) {
#ifdef __SSE2__
    if constexpr (kFloat && IWAE_VECTOR_BYTES == 16) return (Value)_mm_min_ps((__m128)y, (__m128)x);
    if constexpr (!kFloat && IWAE_VECTOR_BYTES == 16) return (Value)_mm_min_pd((__m128d)y, (__m128d)x);
#endif
#ifdef __AVX__
    if constexpr (kFloat && IWAE_VECTOR_BYTES == 32) return (Value)_mm256_min_ps((__m256)y, (__m256)x);
    if constexpr (!kFloat && IWAE_VECTOR_BYTES == 32) return (Value)_mm256_min_pd((__m256d)y, (__m256d)x);
#endif
    return x > y ? y : x;
  }

  // -|x|
  static Value minus_abs(Value x) {
    return reinterpret_cast<Value>(reinterpret_cast<Integer>(x) | reinterpret_cast<Integer>(all(T(-0.0))));
  }

  // exp over the whole range, subnormal results and infinities included; NaN stays NaN.
  static Value exp(Value x) {
    x = min(max(x, all(Lanes::kExpLowest)), all(Lanes::kExpHighest));
    const Value shifted = x * T(kLog2E) + Lanes::kRoundingShift;
    const Integer n = reinterpret_cast<Integer>(shifted) - reinterpret_cast<Integer>(all(Lanes::kRoundingShift));
    const Value rounded = shifted - Lanes::kRoundingShift;
    const Value y = exp_polynomial(x - rounded * Lanes::kLn2High - rounded * Lanes::kLn2Low);
    // In two steps: 2^n alone may leave the range of normal numbers although the result does not.
    const Integer first = n >> 1;
    return y * power_of_two(first) * power_of_two(n - first);
  }

  // 1 + exp(x) for x <= 0, to rounding of the sum: exp(x) itself has an absolute error of 2^-25 only (2^-54).
  static Value one_plus_exp_nonpositive(Value x) {
    x = max(x, all(-Lanes::kNormal));
    const Value shifted = x * T(kLog2E) + kBiasedShift;
    const Value y = exp_polynomial(x - (shifted - kBiasedShift) * Lanes::kLn2);
    return y * biased_power_of_two(shifted) + T(1);
  }

  // 1 + exp(-x), exp(x) kept within the normal numbers.
  static Value one_plus_exp_minus(Value x) {
    x = min(max(x, all(-Lanes::kNormal)), all(Lanes::kNormal));
    const Value shifted = x * T(-kLog2E) + kBiasedShift;
    const Value rounded = shifted - kBiasedShift;
    const Value y = exp_polynomial(-x - rounded * Lanes::kLn2High - rounded * Lanes::kLn2Low);
    return y * biased_power_of_two(shifted) + T(1);
  }

 private:
  static constexpr bool kFloat = sizeof(T) == 4;
  static constexpr double kLog2E = 1.44269504088896340736;
  // Adding it rounds to an integer and leaves integer + bias in the lowest bits.
  static constexpr T kBiasedShift = Lanes::kRoundingShift + Lanes::kBias;

  // exp(r) for |r| <= ln(2) / 2
  static Value exp_polynomial(Value r) {
    Value polynomial = all(Lanes::kExp[Lanes::kTerms - 1]);
    for (int term = Lanes::kTerms - 2; term >= 0; --term) polynomial = polynomial * r + Lanes::kExp[term];
    return (polynomial * r + T(1)) * r + T(1);
  }

  static Value power_of_two(Integer n) { return reinterpret_cast<Value>((n + Lanes::kBias) << Lanes::kMantissa); }
  static Value biased_power_of_two(Value shifted) {
    return reinterpret_cast<Value>(reinterpret_cast<Integer>(shifted) << Lanes::kMantissa);
  }
};

}  // namespace IWAE_ISA
}  // namespace iwae
