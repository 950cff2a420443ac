// The standard Gaussian density, per element: log p = -v^2 / 2 - log(2 pi) / 2.
#pragma once

#include "density.h"
#include "gaussian.h"

namespace iwae {
namespace IWAE_ISA {

template <class Math>
struct StandardGaussianDensity : DensityDefaults<Math> {
  using Value = typename Math::Value;
  static constexpr int kParameters = 1;
  static constexpr double kScale = -0.5, kConstant = -kHalfLog2Pi;

  IWAE_EVERYWHERE static void add(const Value (&p)[kParameters], Value& sum, Value&) { sum += p[0] * p[0]; }

  IWAE_EVERYWHERE static void gradients(const Value (&p)[kParameters], Value (&slope)[kParameters]) {
    slope[0] = -p[0];
  }
};

}  // namespace IWAE_ISA
}  // namespace iwae
