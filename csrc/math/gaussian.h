// The diagonal Gaussian density, per element: log p = -(t^2 / 2 + log s) - log(2 pi) / 2 with t = (v - m) / s.
//
// `Math` gives the type of a value (one number, or a vector of them) and its elementary functions. 1 / s comes as two
// factors, neither of which overflows: v = m then gives t = 0 at every scale, where 0 * inf would be NaN, and t is right
// for all other v too.
#pragma once

#include "factors.h"
#include "inline.h"

namespace iwae {
namespace IWAE_ISA {

constexpr double kHalfLog2Pi = 0.91893853320467274178;

// t^2 / 2 + log s: minus the density, without its constant.
template <class Math>
IWAE_INLINE typename Math::Value gaussian_energy(typename Math::Value v, typename Math::Value m,
                                                 typename Math::Value log_std) {
  const Factors<typename Math::Value> reciprocal = Math::exp_factors(-log_std);
  const typename Math::Value t = (v - m) * reciprocal.first * reciprocal.second;
  return Math::half() * t * t + log_std;
}

// d log p / dm = t / s = -d log p / dv and d log p / d log s = t^2 - 1.
template <class Math>
struct GaussianGradient {
  typename Math::Value mean;
  typename Math::Value log_std;
};

template <class Math>
IWAE_INLINE GaussianGradient<Math> gaussian_gradient(typename Math::Value v, typename Math::Value m,
                                                     typename Math::Value log_std) {
  const Factors<typename Math::Value> reciprocal = Math::exp_factors(-log_std);
  const typename Math::Value t = (v - m) * reciprocal.first * reciprocal.second;
  return {t * reciprocal.first * reciprocal.second, t * t - Math::one()};
}

}  // namespace IWAE_ISA
}  // namespace iwae
