// The Bernoulli density from logits, per element: log p = v l - softplus(l), softplus(l) = max(l, 0) + log(1 + u)
// with u = exp(-|l|).
//
// `Math` provides the value type (a scalar or a vector) and its elementary functions.
#pragma once

#include "density.h"
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

// One exponential per element, and one logarithm for many.
template <class Math>
struct BernoulliDensity : DensityDefaults<Math> {
  using Scalar = typename Math::Scalar;
  using Value = typename Math::Value;
  static constexpr int kParameters = 2;
  static constexpr bool kHasFactors = true;
  enum { kValue, kLogits };

  // Value 0 with logit -1e30 has log-probability 0. The logit is finite, so that 0 times it is not NaN.
  IWAE_EVERYWHERE static Scalar neutral(int parameter) { return parameter == kLogits ? Scalar(-1e30) : Scalar(0); }

  IWAE_EVERYWHERE static void add(const Value (&p)[kParameters], Value& sum, Value& factors) {
    sum += bernoulli_linear<Math>(p[kValue], p[kLogits]);
    factors *= bernoulli_factor<Math>(p[kLogits]);
  }

  IWAE_EVERYWHERE static void gradients(const Value (&p)[kParameters], Value (&slope)[kParameters]) {
    slope[kValue] = p[kLogits];
    slope[kLogits] = bernoulli_residual<Math>(p[kValue], p[kLogits]);
  }
};

// The same for logits without their bias, which is a separate parameter: a linear layer's matrix product and its bias.
template <class Math>
struct BiasedBernoulliDensity : DensityDefaults<Math> {
  using Scalar = typename Math::Scalar;
  using Value = typename Math::Value;
  using Unbiased = BernoulliDensity<Math>;
  static constexpr int kParameters = 3;
  static constexpr bool kHasFactors = true, kHalves = false;  // the matrix products are in float32
  enum { kValue, kProduct, kBias };

  IWAE_EVERYWHERE static Scalar neutral(int parameter) {
    return parameter == kProduct ? Unbiased::neutral(Unbiased::kLogits) : Scalar(0);
  }

  IWAE_EVERYWHERE static void add(const Value (&p)[kParameters], Value& sum, Value& factors) {
    const Value unbiased[] = {p[kValue], p[kProduct] + p[kBias]};
    Unbiased::add(unbiased, sum, factors);
  }

  IWAE_EVERYWHERE static void gradients(const Value (&p)[kParameters], Value (&slope)[kParameters]) {
    const Value unbiased[] = {p[kValue], p[kProduct] + p[kBias]};
    Value slopes[Unbiased::kParameters];
    Unbiased::gradients(unbiased, slopes);
    slope[kValue] = slopes[Unbiased::kValue];
    slope[kProduct] = slope[kBias] = slopes[Unbiased::kLogits];
  }
};

}  // namespace IWAE_ISA
}  // namespace iwae
