// log N(value; 0, I), per element of a thread.
#pragma once

#include "../math/gaussian.h"
#include "math.h"

namespace iwae {
namespace IWAE_ISA {

template <class T>
struct StandardGaussianDensity {
  using Scalar = T;
  static constexpr int kParameters = 1;
  static constexpr bool kHasFactors = false, kHalves = true;

  __device__ __forceinline__ static T neutral(int) { return T(0); }
  __device__ __forceinline__ static double constant() { return -kHalfLog2Pi; }

  __device__ __forceinline__ static void add(const T (&p)[kParameters], T& sum, T&) { sum -= T(0.5) * p[0] * p[0]; }

  __device__ __forceinline__ static void gradients(const T (&p)[kParameters], T (&slope)[kParameters]) {
    slope[0] = -p[0];
  }
};

}  // namespace IWAE_ISA
}  // namespace iwae
