// The elementary functions used by the formulas of csrc/math, on scalars of a thread.
//
// In float32 they use the GPU's own instructions where these are accurate enough: an H200 can execute about 27
// instructions in the time in which its memory delivers one float32.
#pragma once

#include <cmath>
#include <cstdint>

#include "../math/factors.h"
#include "../math/half.h"
#include "device.h"

namespace iwae {
namespace IWAE_ISA {

// 2^x to 2 units in the last place, and 0 where the result would be subnormal.
IWAE_INLINE float exp2_instruction(float x) {
#ifdef __CUDA_ARCH__
  float power;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(power) : "f"(x));
  return power;
#else
  return x < -126.0f ? 0.0f : std::exp2(x);
#endif
}

// 1 / x to 1 unit in the last place, for x that is neither subnormal nor beyond 2^126.
IWAE_INLINE float reciprocal_instruction(float x) {
#ifdef __CUDA_ARCH__
  float reciprocal;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(reciprocal) : "f"(x));
  return reciprocal;
#else
  return 1.0f / x;
#endif
}

template <class T>
struct Math;

// Functions shared by both precisions.
template <class T>
struct Numbers {
  using Scalar = T;
  using Value = T;
  using Word = uint64_t;
  using Bits = uint32_t;

  IWAE_EVERYWHERE static T zero() { return T(0); }
  IWAE_EVERYWHERE static T one() { return T(1); }
  IWAE_EVERYWHERE static T half() { return T(0.5); }
  IWAE_EVERYWHERE static T all(T x) { return x; }
  // A NaN is returned.
  IWAE_EVERYWHERE static T max(T x, T y) { return x != x || x > y ? x : y; }
  IWAE_EVERYWHERE static T min(T x, T y) { return x != x || x < y ? x : y; }
  IWAE_EVERYWHERE static T minus_abs(T x) { return x < T(0) ? x : -x; }
  IWAE_EVERYWHERE static T zero_where_zero(T flag, T value) { return flag != T(0) ? value : T(0); }
  IWAE_EVERYWHERE static T one_where_positive(T x, T value) { return x >= T(0) ? T(1) : value; }

  IWAE_EVERYWHERE static Word word(uint32_t x) { return x; }
  IWAE_EVERYWHERE static Word product(Word x, uint32_t factor) { return uint64_t{static_cast<uint32_t>(x)} * factor; }
  IWAE_EVERYWHERE static T value(Bits x) { return static_cast<T>(x); }

  // Runs a formula on float64 numbers: Formula::run<Math<double>, T>(p, made).
  template <class Formula, int kInputs, int kResults>
  IWAE_EVERYWHERE static void in_double(const T (&p)[kInputs], T (&made)[kResults]) {
    double wide[kInputs], results[kResults];
#pragma unroll
    for (int i = 0; i < kInputs; ++i) wide[i] = static_cast<double>(p[i]);
    Formula::template run<Math<double>, T>(wide, results);
#pragma unroll
    for (int i = 0; i < kResults; ++i) made[i] = static_cast<T>(results[i]);
  }

  // For angles in turns, in (0, 1). The reduction to an eighth of a turn is exact, so short series are enough, without
  // the slow path for large angles that the library's functions have.
  IWAE_EVERYWHERE static void cos_sin_of_turns(T turns, T& cosine, T& sine) {
    constexpr int kTerms = sizeof(T) == sizeof(double) ? 8 : 5;
    const T quarters = T(4) * turns;
    const int nearest = static_cast<int>(quarters + T(0.5));
    const T x = (quarters - static_cast<T>(nearest)) * T(1.57079632679489661923), y = x * x;
    T c = T(1), s = T(1);
#pragma unroll
    for (int degree = 2 * kTerms; degree > 0; degree -= 2) {  // Taylor's, innermost first
      c = T(1) - y * c * T(1.0 / (degree * (degree - 1.0)));
      s = T(1) - y * s * T(1.0 / (degree * (degree + 1.0)));
    }
    s *= x;
    const bool odd = nearest & 1;
    cosine = odd ? s : c;
    sine = odd ? c : s;
    if ((nearest + 1) & 2) cosine = -cosine;
    if (nearest & 2) sine = -sine;
  }
};

template <>
struct Math<float> : Numbers<float> {
  static constexpr float kLog2E = 1.44269504088896f;

  IWAE_EVERYWHERE static float max(float x, float y) {
#ifdef __CUDA_ARCH__
    float larger;
    asm("max.NaN.f32 %0, %1, %2;" : "=f"(larger) : "f"(x), "f"(y));
    return larger;
#else
    return Numbers<float>::max(x, y);
#endif
  }

  IWAE_EVERYWHERE static float minus_abs(float x) { return -fabsf(x); }  // part of the instruction that uses it

  // x y, which the compiler does not fuse with an addition: the product is then the same wherever it is computed.
  IWAE_EVERYWHERE static float rounded_product(float x, float y) {
#ifdef __CUDA_ARCH__
    return __fmul_rn(x, y);
#else
    return x * y;
#endif
  }

  // exp(x) for x <= 0; the relative error grows as |x| 2^-24, for results that need not be accurate.
  IWAE_EVERYWHERE static float exp_nonpositive(float x) { return exp2_instruction(x * kLog2E); }

  // exp(x) without that growth: the rounding error of the product with log2(e) is added back.
  IWAE_EVERYWHERE static float exp(float x) {
    const float rounded = x * kLog2E;
    const float lost = fmaf(x, kLog2E, -rounded) + x * 1.925963033500e-8f;
    const float power = exp2_instruction(rounded);
    return power > 0.0f && power <= 3.4028235e38f ? fmaf(power, lost * 0.6931471805599453f, power) : power;
  }

  // exp as a product of two finite numbers, up to e^148, by which the square of any nonzero difference of two numbers
  // overflows. NaN stays NaN.
  IWAE_EVERYWHERE static Factors<float> exp_factors(float x) {
    const bool far = x > 60.0f;
    const float near = far ? x - 60.0f : x;
    return {exp(near > 88.0f ? 88.0f : near), far ? 1.1420073898156842e26f : 1.0f};  // e^60
  }

  IWAE_EVERYWHERE static float divide(float x, float y) { return x * reciprocal_instruction(y); }
  IWAE_EVERYWHERE static float log(float x) { return logf(x); }
  IWAE_EVERYWHERE static float sqrt(float x) { return sqrtf(x); }
};

template <>
struct Math<double> : Numbers<double> {
  IWAE_EVERYWHERE static double rounded_product(double x, double y) {
#ifdef __CUDA_ARCH__
    return __dmul_rn(x, y);
#else
    return x * y;
#endif
  }
  // A positive normal number as a power of two and a mantissa near 1. Infinity and NaN give finite numbers.
  IWAE_EVERYWHERE static Binary<double> split(double x) {
    constexpr uint64_t kRootOfHalf = 0x3fe6a09e667f3bcd, kOne = 0x3ff0000000000000, kMantissaBits = 0xfffffffffffff;
    uint64_t above;
    memcpy(&above, &x, sizeof above);
    above += kOne - kRootOfHalf;
    const uint64_t bits = (above & kMantissaBits) + kRootOfHalf;
    double mantissa;
    memcpy(&mantissa, &bits, sizeof mantissa);
    return {static_cast<double>(static_cast<int>(above >> 52) - 1023), mantissa};
  }

  IWAE_EVERYWHERE static double exp_nonpositive(double x) { return ::exp(x); }
  IWAE_EVERYWHERE static double exp(double x) { return ::exp(x); }
  // As in float32, up to e^1200; e^1100 would be enough.
  IWAE_EVERYWHERE static Factors<double> exp_factors(double x) {
    const bool far = x > 500.0;
    const double near = far ? x - 500.0 : x;
    return {exp(near > 700.0 ? 700.0 : near), far ? 1.4035922178528374e217 : 1.0};  // e^500
  }

  IWAE_EVERYWHERE static double divide(double x, double y) { return x / y; }
  IWAE_EVERYWHERE static double log(double x) { return ::log(x); }
  IWAE_EVERYWHERE static double sqrt(double x) { return ::sqrt(x); }
};

}  // namespace IWAE_ISA
}  // namespace iwae
