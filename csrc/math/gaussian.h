// The diagonal Gaussian density, per element: log p = -(t^2 / 2 + log s) - log(2 pi) / 2 with t = (v - m) / s.
//
// `Math` provides the value type (a scalar or a vector) and its elementary functions. 1 / s is represented by two
// factors that do not overflow: v = m then gives t = 0 at every scale, where 0 * inf would be NaN, and t is correct for
// all other v too.
#pragma once

#include "density.h"
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

template <class Math>
struct GaussianDensity : DensityDefaults<Math> {
  using Value = typename Math::Value;
  static constexpr int kParameters = 3;
  static constexpr double kScale = -1.0, kConstant = -kHalfLog2Pi;
  enum { kValue, kMean, kLogStd };

  IWAE_EVERYWHERE static void add(const Value (&p)[kParameters], Value& sum, Value&) {
    sum += gaussian_energy<Math>(p[kValue], p[kMean], p[kLogStd]);
  }

  IWAE_EVERYWHERE static void gradients(const Value (&p)[kParameters], Value (&slope)[kParameters]) {
    const GaussianGradient<Math> g = gaussian_gradient<Math>(p[kValue], p[kMean], p[kLogStd]);
    slope[kValue] = -g.mean;
    slope[kMean] = g.mean;
    slope[kLogStd] = g.log_std;
  }
};

}  // namespace IWAE_ISA
}  // namespace iwae
