// log N(value; 0, I), summed over the last axis.
#pragma once

#include "density.h"

namespace iwae {
namespace IWAE_ISA {

template <class T>
struct StandardGaussianDensity {
  using Scalar = T;
  using S = Simd<T>;
  using Value = typename S::Value;

  static constexpr int kParameters = 1;
  struct Parameters {
    Value value[kParameters];
  };

  static T neutral(int) { return T(0); }
  static double constant() { return -kHalfLog2Pi; }

  struct Sum {
    Value squares = S::zero();

    void add(const Parameters& p) { squares += p.value[0] * p.value[0]; }
  };

  struct Total {
    double sum = 0.0;

    void add(const Sum& a, const Sum& b, const Sum& c, const Sum& d) {
      sum += S::sum((S::widen(a.squares) + S::widen(b.squares)) + (S::widen(c.squares) + S::widen(d.squares)));
    }
    double value() const { return -0.5 * sum; }
  };

  static Parameters gradients(const Parameters& p) { return {{-p.value[0]}}; }
};

}  // namespace IWAE_ISA
}  // namespace iwae
