// log N(value; mean, exp(log_std)^2), per element of a thread.
#pragma once

#include "../math/gaussian.h"
#include "math.h"

namespace iwae {
namespace IWAE_ISA {

template <class T>
struct GaussianDensity {
  using Scalar = T;
  static constexpr int kParameters = 3;
  static constexpr bool kHasFactors = false, kHalves = true;
  enum { kValue, kMean, kLogStd };

  __device__ __forceinline__ static T neutral(int) { return T(0); }
  __device__ __forceinline__ static double constant() { return -kHalfLog2Pi; }

  __device__ __forceinline__ static void add(const T (&p)[kParameters], T& sum, T&) {
    sum -= gaussian_energy<Math<T>>(p[kValue], p[kMean], p[kLogStd]);
  }

  __device__ __forceinline__ static void gradients(const T (&p)[kParameters], T (&slope)[kParameters]) {
    const GaussianGradient<Math<T>> g = gaussian_gradient<Math<T>>(p[kValue], p[kMean], p[kLogStd]);
    slope[kValue] = -g.mean;
    slope[kMean] = g.mean;
    slope[kLogStd] = g.log_std;
  }
};

}  // namespace IWAE_ISA
}  // namespace iwae
