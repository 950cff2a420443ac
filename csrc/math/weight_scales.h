// The scales of the samples' gradients in decoder and encoder, from normalized weights.
//
// `Math` provides values (scalars or vectors) and their functions.
#pragma once

#include "inline.h"

namespace iwae {
namespace IWAE_ISA {

// The numbers of a WeightScalesCall in the type of the computation.
template <class T>
struct ScaleFactors {
  T power, factor, linear, quadratic, rounding;

  template <class Call>
  IWAE_EVERYWHERE explicit ScaleFactors(const Call& call)
      : power(static_cast<T>(call.power)),
        factor(static_cast<T>(call.factor)),
        linear(static_cast<T>(call.linear)),
        quadratic(static_cast<T>(call.quadratic)),
        rounding(static_cast<T>(call.rounding)) {}
};

template <class Math>
struct WeightScales {
  typename Math::Value decoder, encoder, ratio;
};

// decoder = factor v and encoder = factor v (linear + quadratic v), of a normalized weight v. The decoder's is raised
// to `rounding` times the encoder's, so that their ratio, by which gradients are multiplied, stays finite.
template <class Math, class T>
IWAE_INLINE WeightScales<Math> weight_scales_of(typename Math::Value weight, const ScaleFactors<T>& by) {
  const typename Math::Value own = weight * by.factor, slope = by.linear + by.quadratic * weight;
  const typename Math::Value raised = Math::max(Math::minus_abs(slope) * -by.rounding, Math::one());
  return {own * raised, own * slope, Math::divide(slope, raised)};
}

}  // namespace IWAE_ISA
}  // namespace iwae
