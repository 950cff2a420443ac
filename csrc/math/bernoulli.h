// The Bernoulli density from logits, per element: log p = v l - softplus(l), softplus(l) = max(l, 0) + log(1 + u)
// with u = exp(-|l|).
//
// `Math` provides the value type (a scalar or a vector) and its elementary functions.
#pragma once

#include "inline.h"

namespace iwae {
namespace IWAE_ISA {

// v l - max(l, 0): log p without its logarithm, which is computed for many elements together.
template <class Math>
IWAE_INLINE typename Math::Value bernoulli_linear(typename Math::Value v, typename Math::Value l) {
  return v * l - Math::max(l, Math::zero());
}

// 1 + exp(-|l|), in (1, 2]: one logarithm is computed for the product of many of these.
template <class Math>
IWAE_INLINE typename Math::Value bernoulli_factor(typename Math::Value l) {
  return Math::one() + Math::exp_nonpositive(Math::minus_abs(l));
}

// d log p / dl = v - sigmoid(l). Written with the same exponential as the factor, so that the compiler computes it once
// if both are needed.
template <class Math>
IWAE_INLINE typename Math::Value bernoulli_residual(typename Math::Value v, typename Math::Value l) {
  const typename Math::Value u = Math::exp_nonpositive(Math::minus_abs(l));
  return v - Math::divide(Math::one_where_positive(l, u), Math::one() + u);
}

}  // namespace IWAE_ISA
}  // namespace iwae
