// log Bernoulli(value; logits), per element of a thread, with one exponential per element and one logarithm for many.
#pragma once

#include "../math/bernoulli.h"
#include "math.h"

namespace iwae {
namespace IWAE_ISA {

template <class T>
struct BernoulliDensity {
  using Scalar = T;
  static constexpr int kParameters = 2;
  static constexpr bool kHasFactors = true, kHalves = true;
  enum { kValue, kLogits };

  // Padding: value 0 with logit -1e30 has log-probability 0. The logit is finite, so that 0 times it is not NaN.
  __device__ __forceinline__ static T neutral(int parameter) { return parameter == kLogits ? T(-1e30) : T(0); }
  __device__ __forceinline__ static double constant() { return 0.0; }

  __device__ __forceinline__ static void add(const T (&p)[kParameters], T& sum, T& factors) {
    sum += bernoulli_linear<Math<T>>(p[kValue], p[kLogits]);
    factors *= bernoulli_factor<Math<T>>(p[kLogits]);
  }

  __device__ __forceinline__ static void gradients(const T (&p)[kParameters], T (&slope)[kParameters]) {
    slope[kValue] = p[kLogits];
    slope[kLogits] = bernoulli_residual<Math<T>>(p[kValue], p[kLogits]);
  }
};

// The same for logits without their bias, which is a separate parameter: a linear layer's matrix product and its bias.
template <class T>
struct BiasedBernoulliDensity {
  using Scalar = T;
  using Unbiased = BernoulliDensity<T>;
  static constexpr int kParameters = 3;
  static constexpr bool kHasFactors = true, kHalves = false;  // the matrix products are in float32
  enum { kValue, kProduct, kBias };

  __device__ __forceinline__ static T neutral(int parameter) {
    return parameter == kProduct ? Unbiased::neutral(Unbiased::kLogits) : T(0);
  }
  __device__ __forceinline__ static double constant() { return Unbiased::constant(); }

  __device__ __forceinline__ static void add(const T (&p)[kParameters], T& sum, T& factors) {
    const T unbiased[] = {p[kValue], p[kProduct] + p[kBias]};
    Unbiased::add(unbiased, sum, factors);
  }

  __device__ __forceinline__ static void gradients(const T (&p)[kParameters], T (&slope)[kParameters]) {
    const T unbiased[] = {p[kValue], p[kProduct] + p[kBias]};
    T slopes[Unbiased::kParameters];
    Unbiased::gradients(unbiased, slopes);
    slope[kValue] = slopes[Unbiased::kValue];
    slope[kProduct] = slope[kBias] = slopes[Unbiased::kLogits];
  }
};

}  // namespace IWAE_ISA
}  // namespace iwae
