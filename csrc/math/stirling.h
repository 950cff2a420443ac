// What Stirling's formulas for log Gamma and digamma leave out, from y = 1 / z for z >= 3, in float64 arithmetic:
//
//   log Gamma(z) = (z - 1/2) log z - z + log(2 pi) / 2 + stirling_remainder(y)
//   digamma(z) = log z - y / 2 - y^2 stirling_slope(y)
//
// Both are polynomials of y^2, interpolated at Chebyshev nodes on [0, 1/9].
#pragma once

#include "logarithm.h"

namespace iwae {
namespace IWAE_ISA {

constexpr double kStirlingFrom = 3.0;

template <class Math, class Result>
IWAE_INLINE typename Math::Value stirling_remainder(typename Math::Value y) {
  const typename Math::Value square = y * y;
  if constexpr (kExact<Result>) {
    return y * polynomial<Math>(square, 0.083333333333333141, -0.0027777777774305001, 0.00079365068849147855,
                                -0.0005952255253429815, 0.00084097013309473312, -0.0018887167228095631,
                                0.0057260560617154597, -0.018431231262231966, 0.046498798438668196,
                                -0.060672531561754672);
  } else {
    return y * polynomial<Math>(square, 0.083333333331399851, -0.0027777765182037517, 0.0007935148822630074,
                                -0.0005897124885236223, 0.00073447430991486684, -0.00082282005543823507);
  }
}

template <class Math, class Result>
IWAE_INLINE typename Math::Value stirling_slope(typename Math::Value y) {
  const typename Math::Value square = y * y;
  if constexpr (kExact<Result>) {
    return polynomial<Math>(square, 0.083333333333330219, -0.0083333333277041102, 0.0039682522607397384,
                            -0.004166461892502485, 0.0075629699985039654, -0.020616765094993243,
                            0.071865196583366377, -0.2522791141573682, 0.66819376835256588, -0.89581618877025337);
  } else {
    return polynomial<Math>(square, 0.083333333311524769, -0.0083333191152430629, 0.0039667138571256333,
                            -0.0041035411346517328, 0.0063303366081079109, -0.0079405074839780818);
  }
}

}  // namespace IWAE_ISA
}  // namespace iwae
