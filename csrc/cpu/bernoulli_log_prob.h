// log Bernoulli(value; logits), summed over the last axis, with one exponential per element and one logarithm per
// hundreds of elements.
#pragma once

#include <cmath>

#include "../math/bernoulli.h"
#include "density.h"

namespace iwae {
namespace IWAE_ISA {

template <class T>
struct BernoulliDensity {
  using Scalar = T;
  using S = Simd<T>;
  using Value = typename S::Value;

  static constexpr int kParameters = 2;
  enum { kValue, kLogits };
  struct Parameters {
    Value value[kParameters];
  };

  // Padding: value 0 with logit -1e30 has log-probability 0. The logit is finite, so that 0 times it is not NaN.
  static T neutral(int parameter) { return parameter == kLogits ? T(-1e30) : T(0); }
  static double constant() { return 0.0; }

  struct Sum {
    Value linear = S::zero();
    // A tile has 992 factors of at most 2, so no product overflows: a lane of one of the four products has at most 62
    // factors, and the product of all fits into a double.
    Value factors = S::one();

    void add(const Parameters& p) {
      linear += bernoulli_linear<S>(p.value[kValue], p.value[kLogits]);
      factors *= bernoulli_factor<S>(p.value[kLogits]);
    }
  };

  // The sum over a row. The logarithm is taken before the product of one more tile could overflow a double.
  struct Total {
    double sum = 0.0, product = 1.0;

    void add(const Sum& a, const Sum& b, const Sum& c, const Sum& d) {
      sum += S::sum((S::widen(a.linear) + S::widen(b.linear)) + (S::widen(c.linear) + S::widen(d.linear)));
      if (product > 0x1p30) {
        sum -= std::log(product);
        product = 1.0;
      }
      product *= S::product((S::widen(a.factors) * S::widen(b.factors)) * (S::widen(c.factors) * S::widen(d.factors)));
    }
    double value() const { return sum - std::log(product); }
  };

  static Parameters gradients(const Parameters& p) {
    return {{p.value[kLogits], bernoulli_residual<S>(p.value[kValue], p.value[kLogits])}};
  }
};

// The same for logits without their bias, which is a separate parameter: a linear layer's matrix product and its bias.
template <class T>
struct BiasedBernoulliDensity {
  using Scalar = T;
  using S = Simd<T>;
  using Value = typename S::Value;
  using Unbiased = BernoulliDensity<T>;

  static constexpr int kParameters = 3;
  enum { kValue, kProduct, kBias };
  struct Parameters {
    Value value[kParameters];

    typename Unbiased::Parameters unbiased() const { return {{value[kValue], value[kProduct] + value[kBias]}}; }
  };

  static T neutral(int parameter) { return parameter == kProduct ? Unbiased::neutral(Unbiased::kLogits) : T(0); }
  static double constant() { return Unbiased::constant(); }

  struct Sum : Unbiased::Sum {
    void add(const Parameters& p) { Unbiased::Sum::add(p.unbiased()); }
  };

  using Total = typename Unbiased::Total;

  static Parameters gradients(const Parameters& p) {
    const typename Unbiased::Parameters unbiased = Unbiased::gradients(p.unbiased());
    const Value residual = unbiased.value[Unbiased::kLogits];
    return {{unbiased.value[Unbiased::kValue], residual, residual}};
  }
};

}  // namespace IWAE_ISA
}  // namespace iwae
