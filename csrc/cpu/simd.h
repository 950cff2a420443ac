// Vectors of the widest kind that this translation unit is compiled for. They use the compilers' vector extensions, so
// that all instruction sets and ARM share one source. Only max, min and sqrt are intrinsics on x86: compilers do not
// generate the first two from comparisons, and have no operator for the last.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

#include "../math/factors.h"

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
  static constexpr float kRoundingShift = 12582912.0f;        // 1.5 * 2^23: adding it rounds to an integer
  static constexpr float kLn2High = 0.693359375f;             // exact in few bits, so n * kLn2High is exact
  static constexpr float kLn2Low = -2.12194440e-4f;
  static constexpr float kExpLowest = -110.0f, kExpHighest = 90.0f;  // exp is 0 below and inf above
  // Up to here both factors of exp are normal numbers; e^148 times any nonzero difference of two numbers has a square
  // that overflows.
  static constexpr float kFactorsEnd = 174.0f;
  static constexpr float kNormal = 126.0f;                           // 2^x and 2^-x are normal numbers up to here
  static constexpr float kTanhEnd = 20.0f;                           // tanh(x / 2) is 1 from here on
  static constexpr int kTerms = 6;
  // (2^r - 1) / r on |r| <= 1/2, interpolated at Chebyshev nodes: 2^r to 5.1e-9, relative
  static constexpr float kExp2[kTerms] = {0.693147188026f, 0.240226507606f,  0.0555035711422f,
                                          0.00961808255728f, 0.00133908633647f, 0.000154531629451f};
};

template <>
struct Vector<double> {
  typedef double Value __attribute__((vector_size(IWAE_VECTOR_BYTES)));
  typedef int64_t Integer __attribute__((vector_size(IWAE_VECTOR_BYTES)));
  typedef double Wide __attribute__((vector_size(IWAE_VECTOR_BYTES)));
  static constexpr int kLanes = IWAE_VECTOR_BYTES / 8;
  static constexpr int kMantissa = 52, kBias = 1023;
  static constexpr double kRoundingShift = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 0.693147180369123816490;
  static constexpr double kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kExpLowest = -750.0, kExpHighest = 710.0;
  static constexpr double kFactorsEnd = 1400.0;  // as above, with e^1100
  static constexpr double kNormal = 1022.0;
  static constexpr double kTanhEnd = 40.0;
  static constexpr int kTerms = 11;
  // as above: 2^r to 8.4e-18, relative
  static constexpr double kExp2[kTerms] = {
      0.69314718055994530942,    0.2402265069591009822,     0.055504108664821594339,  0.0096181291076068885273,
      0.001333355814641693531,   0.00015403530441736050155, 1.5252733829836118394e-5, 1.3215442587921689653e-6,
      1.0178062445845773521e-7,  7.0725859492692236999e-9,  4.4549605981865183938e-10};
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
    return over_lanes(v, [](double x, double y) { return x + y; });
  }
  static double product(Wide v) {
    return over_lanes(v, [](double x, double y) { return x * y; });
  }

  // A NaN in the first argument is returned.
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

  static Value divide(Value x, Value y) { return x / y; }

  static Value sqrt(Value x) {
#ifdef __AVX512F__
    if constexpr (kFloat && IWAE_VECTOR_BYTES == 64) return (Value)_mm512_mask_sqrt_ps((__m512)x, -1, (__m512)x);
    if constexpr (!kFloat && IWAE_VECTOR_BYTES == 64) return (Value)_mm512_mask_sqrt_pd((__m512d)x, -1, (__m512d)x);
#endif
#ifdef __AVX__
    if constexpr (kFloat && IWAE_VECTOR_BYTES == 32) return (Value)_mm256_sqrt_ps((__m256)x);
    if constexpr (!kFloat && IWAE_VECTOR_BYTES == 32) return (Value)_mm256_sqrt_pd((__m256d)x);
#endif
#ifdef __SSE2__
    if constexpr (kFloat && IWAE_VECTOR_BYTES == 16) return (Value)_mm_sqrt_ps((__m128)x);
    if constexpr (!kFloat && IWAE_VECTOR_BYTES == 16) return (Value)_mm_sqrt_pd((__m128d)x);
#endif
    for (int lane = 0; lane < kLanes; ++lane) {
      x[lane] = kFloat ? __builtin_sqrtf(static_cast<float>(x[lane])) : static_cast<T>(__builtin_sqrt(x[lane]));
    }
    return x;
  }

  // A positive normal number as a power of two and a mantissa near 1. Infinity and NaN give finite numbers.
  static Binary<Value> split(Value x) {
    static_assert(!kFloat, "only float64 numbers are split");
    typedef uint64_t Bits __attribute__((vector_size(IWAE_VECTOR_BYTES)));
    constexpr uint64_t kRootOfHalf = 0x3fe6a09e667f3bcd, kOne = 0x3ff0000000000000, kMantissaBits = 0xfffffffffffff;
    constexpr uint64_t kTwoTo52 = 0x4330000000000000;
    const Bits above = reinterpret_cast<Bits>(x) + (kOne - kRootOfHalf);
    const Value biased = reinterpret_cast<Value>(above >> Lanes::kMantissa | kTwoTo52);  // 2^52 + exponent + bias
    return {biased - (4503599627370496.0 + Lanes::kBias),
            reinterpret_cast<Value>((above & kMantissaBits) + kRootOfHalf)};
  }

  // Runs a formula on float64 numbers: Formula::run<Simd<double>, T>(p, made). It is not inlined, since the loops have
  // many copies of it, and it takes longer than a call.
  template <class Formula, int kInputs, int kResults>
  __attribute__((noinline)) static void in_double(const Value (&p)[kInputs], Value (&made)[kResults]) {
    using Double = Simd<double>;
    if constexpr (kFloat) {
      typedef float Half __attribute__((vector_size(IWAE_VECTOR_BYTES / 2)));
      for (int half = 0; half < 2; ++half) {
        typename Double::Value wide[kInputs], results[kResults];
        for (int i = 0; i < kInputs; ++i) {
          Half narrow;
          std::memcpy(&narrow, reinterpret_cast<const char*>(&p[i]) + half * sizeof narrow, sizeof narrow);
          wide[i] = __builtin_convertvector(narrow, typename Double::Value);
        }
        Formula::template run<Double, T>(wide, results);
        for (int i = 0; i < kResults; ++i) {
          const Half narrow = __builtin_convertvector(results[i], Half);
          std::memcpy(reinterpret_cast<char*>(&made[i]) + half * sizeof narrow, &narrow, sizeof narrow);
        }
      }
    } else {
      Formula::template run<Double, T>(p, made);
    }
  }

  // value, and 0 where the flag is 0
  static Value zero_where_zero(Value flag, Value value) { return flag != zero() ? value : zero(); }

  // -|x|
  static Value minus_abs(Value x) {
    return reinterpret_cast<Value>(reinterpret_cast<Integer>(x) | reinterpret_cast<Integer>(all(T(-0.0))));
  }

  // exp over the whole range, subnormal results and infinities included; NaN stays NaN.
  static Value exp(Value x) {
    const Factors<Value> factors = exp_factors_within(x, Lanes::kExpLowest, Lanes::kExpHighest);
    return factors.first * factors.second;
  }

  // exp as a product of two finite numbers, up to exp(kFactorsEnd) and from exp(-kFactorsEnd); NaN stays NaN.
  static Factors<Value> exp_factors(Value x) {
    return exp_factors_within(x, -Lanes::kFactorsEnd, Lanes::kFactorsEnd);
  }

  // exp(x) for x <= 0 with an absolute error of 2^-25 (float64: 2^-54), for results that are added to 1. The result is
  // not below the normal numbers.
  static Value exp_nonpositive(Value x) {
    x = max(x * T(kLog2E), all(-Lanes::kNormal));
    const Value shifted = x + kBiasedShift;
    return exp2_fraction(x - (shifted - kBiasedShift)) * biased_power_of_two(shifted);
  }

  // value, and 1 where x is at least 0
  static Value one_where_positive(Value x, Value value) { return x >= zero() ? one() : value; }

  // tanh(x) = e / (e + 2) with e = exp(2 x) - 1, with a relative error of a few roundings, near 0 too
  static Value tanh(Value x) {
    x = min(max(x + x, all(-Lanes::kTanhEnd)), all(Lanes::kTanhEnd));
    const Value shifted = x * T(kLog2E) + Lanes::kRoundingShift;
    const Integer n = reinterpret_cast<Integer>(shifted) - reinterpret_cast<Integer>(all(Lanes::kRoundingShift));
    const Value r = remainder(x, shifted - Lanes::kRoundingShift), power = power_of_two(n);
    const Value e = r * exp2_slope(r) * power + (power - one());
    return e / (e + T(2));
  }

 private:
  static constexpr bool kFloat = sizeof(T) == 4;
  static constexpr double kLog2E = 1.44269504088896340736;
  // In pairs: a chain of dependent operations as long as the vector would add latency at the end of every row.
  template <class Operation>
  static double over_lanes(Wide v, const Operation& operation) {
    double lanes[kLanes];
    std::memcpy(lanes, &v, sizeof v);
    for (int width = kLanes / 2; width > 0; width /= 2) {
      for (int lane = 0; lane < width; ++lane) lanes[lane] = operation(lanes[lane], lanes[lane + width]);
    }
    return lanes[0];
  }

  // In two steps: 2^n alone may be outside the range of normal numbers although the product is not.
  static Factors<Value> exp_factors_within(Value x, T lowest, T highest) {
    x = min(max(x, all(lowest)), all(highest));
    const Value shifted = x * T(kLog2E) + Lanes::kRoundingShift;
    const Integer n = reinterpret_cast<Integer>(shifted) - reinterpret_cast<Integer>(all(Lanes::kRoundingShift));
    const Value y = exp2_fraction(remainder(x, shifted - Lanes::kRoundingShift));
    const Integer first = n >> 1;
    return {y * power_of_two(first), power_of_two(n - first)};
  }

  // Adding it rounds to an integer and leaves integer + bias in the lowest bits.
  static constexpr T kBiasedShift = Lanes::kRoundingShift + Lanes::kBias;

  // (x - n ln 2) / ln 2, with the digits that x / ln 2 - n would lose.
  static Value remainder(Value x, Value n) { return (x - n * Lanes::kLn2High - n * Lanes::kLn2Low) * T(kLog2E); }

  // 2^r for |r| <= 1/2
  static Value exp2_fraction(Value r) {
    // Terms in pairs: the chain of dependent operations, which limits the loops, is half as long as Horner's.
    const Value square = r * r;
    constexpr int kHighest = Lanes::kTerms / 2 * 2;
    Value polynomial = pair(kHighest, r);
    for (int degree = kHighest - 2; degree >= 0; degree -= 2) polynomial = polynomial * square + pair(degree, r);
    return polynomial;
  }

  // (2^r - 1) / r for |r| <= 1/2
  static Value exp2_slope(Value r) {
    Value polynomial = all(Lanes::kExp2[Lanes::kTerms - 1]);
    for (int degree = Lanes::kTerms - 2; degree >= 0; --degree) polynomial = polynomial * r + Lanes::kExp2[degree];
    return polynomial;
  }

  // The terms of this degree and the next in the polynomial of 2^r, divided by r^degree.
  static Value pair(int degree, Value r) {
    const T constant = degree > 0 ? Lanes::kExp2[degree - 1] : T(1);
    return degree < Lanes::kTerms ? Lanes::kExp2[degree] * r + constant : all(constant);
  }

  static Value power_of_two(Integer n) { return reinterpret_cast<Value>((n + Lanes::kBias) << Lanes::kMantissa); }
  static Value biased_power_of_two(Value shifted) {
    return reinterpret_cast<Value>(reinterpret_cast<Integer>(shifted) << Lanes::kMantissa);
  }
};

}  // namespace IWAE_ISA
}  // namespace iwae
