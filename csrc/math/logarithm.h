// The logarithm of 1 + u where 1 + u is known too, and its distance from u, in float64 arithmetic.
//
// 1 + u is 2^k times a number from 1/sqrt(2) to sqrt(2), whose logarithm is a series in s = z / (2 + z): for k = 0 in
// z = u itself, which keeps the digits that 1 + u has lost.
#pragma once

#include "inline.h"

namespace iwae {
namespace IWAE_ISA {

// The sum of c_i x^i by Horner's scheme.
template <class Math>
IWAE_INLINE typename Math::Value polynomial(typename Math::Value, double c) {
  return Math::all(c);
}
template <class Math, class... Rest>
IWAE_INLINE typename Math::Value polynomial(typename Math::Value x, double c, Rest... rest) {
  return polynomial<Math>(x, rest...) * x + c;
}

// How exact a result has to be: to the rounding of float64, or far beyond that of float32 (1e-11).
template <class Result>
constexpr bool kExact = sizeof(Result) == sizeof(double);

template <class Value>
struct Logarithm {
  Value log;        // log(1 + u)
  Value deviation;  // u - log(1 + u), which is u^2 / 2 near 0
};

// w = 1 + u, a positive normal number; NaN gives any log, and a deviation of NaN. Polynomials: interpolated at
// Chebyshev nodes.
template <class Math, class Result>
IWAE_INLINE Logarithm<typename Math::Value> logarithm(typename Math::Value u, typename Math::Value w) {
  using Value = typename Math::Value;
  constexpr double kLn2 = 0.69314718055994530942;
  const auto parts = Math::split(w);
  const auto near = parts.exponent == Math::zero();
  const Value z = near ? u : parts.mantissa - Math::one();
  const Value s = Math::divide(z, z + 2.0), square = s * s;
  Value series;
  if constexpr (kExact<Result>) {
    series = polynomial<Math>(square, 0.66666666666666697, 0.39999999999899504, 0.28571428625975509,
                              0.22222211134792256, 0.18182889125421715, 0.15331721596205322, 0.146164497305426);
  } else {
    series = polynomial<Math>(square, 0.66666666667375091, 0.39999998797337093, 0.28571754535974763,
                              0.22191400827575849, 0.19362653755489393);
  }
  const Value deviation = s * (z - square * series);
  const Value log = parts.exponent * kLn2 + (z - deviation);
  return {log, near ? deviation : u - log};
}

// log(w) alone.
template <class Math, class Result>
IWAE_INLINE typename Math::Value logarithm(typename Math::Value w) {
  return logarithm<Math, Result>(w - Math::one(), w).log;
}

}  // namespace IWAE_ISA
}  // namespace iwae
