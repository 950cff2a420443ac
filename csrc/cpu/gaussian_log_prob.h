// log N(value; mean, exp(log_std)^2), summed over the last axis.
#pragma once

#include "density.h"

namespace iwae {
namespace IWAE_ISA {

template <class T>
struct GaussianDensity {
  using Scalar = T;
  using S = Simd<T>;
  using Value = typename S::Value;

  static constexpr int kParameters = 3;
  enum { kValue, kMean, kLogStd };
  struct Parameters {
    Value value[kParameters];
  };

  static T neutral(int) { return T(0); }
  static double constant() { return -kHalfLog2Pi; }

  struct Sum {
    Value energy = S::zero();

    void add(const Parameters& p) { energy += gaussian_energy<S>(p.value[kValue], p.value[kMean], p.value[kLogStd]); }
  };

  struct Total {
    double sum = 0.0;

    void add(const Sum& a, const Sum& b, const Sum& c, const Sum& d) {
      sum += S::sum((S::widen(a.energy) + S::widen(b.energy)) + (S::widen(c.energy) + S::widen(d.energy)));
    }
    double value() const { return -sum; }
  };

  static Parameters gradients(const Parameters& p) {
    const GaussianGradient<S> g = gaussian_gradient<S>(p.value[kValue], p.value[kMean], p.value[kLogStd]);
    return {{-g.mean, g.mean, g.log_std}};
  }
};

}  // namespace IWAE_ISA
}  // namespace iwae
