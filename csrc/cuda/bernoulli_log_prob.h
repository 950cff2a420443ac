// log Bernoulli(value; logits), per element of a thread: one exponential each, and one logarithm for many.
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

  // A failure that is certain and that happened: log 1 = 0. Finite, so that nothing times it is NaN.
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

// The same for logits whose bias is yet to be added: products of a linear layer and its bias.
template <class T>
struct BiasedBernoulliDensity {
  using Scalar = T;
  using Unbiased = BernoulliDensity<T>;
  static constexpr int kParameters = 3;
  static constexpr bool kHasFactors = true, kHalves = false;  // of what was multiplied in float32
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
