// Reparameterised samples z = m + s eps of q = N(m, s^2), and log p(z) - log q(z) for p = N(0, 1), per element.
//
// `Math` gives the type of a value (one number, or a vector of them) and its elementary functions.
#pragma once

#include "inline.h"

namespace iwae {
namespace IWAE_ISA {

// log p(z) - log q(z) = (eps^2 - z^2) / 2 + log s
template <class Math>
IWAE_INLINE typename Math::Value gaussian_log_ratio(typename Math::Value eps, typename Math::Value z,
                                                    typename Math::Value log_std) {
  return Math::half() * (eps * eps - z * z) + log_std;
}

// What -log q gives to the gradients of m and log s, per unit of the log-ratio's weight. With q's parameters held fixed,
// -log q is a function of z with derivative eps / s, of which s eps times reaches log s: eps^2, taken without the 1 / s
// that may overflow. Otherwise eps does not depend on them, and what is left of -log q is log s itself.
template <class Value>
struct ScoreGradient {
  Value mean;
  Value log_std;
};

// `reciprocal` is 1 / s.
template <class Math>
IWAE_INLINE ScoreGradient<typename Math::Value> gaussian_score_gradient(bool path_only, typename Math::Value eps,
                                                                        typename Math::Value reciprocal) {
  return path_only ? ScoreGradient<typename Math::Value>{reciprocal * eps, eps * eps}
                   : ScoreGradient<typename Math::Value>{Math::zero(), Math::one()};
}

// d / d log s of what arrives at z = m + s eps. Zero gives zero, also where the step s eps overflows.
template <class Math>
IWAE_INLINE typename Math::Value gaussian_step_gradient(typename Math::Value at_z, typename Math::Value step) {
  return Math::zero_where_zero(at_z, at_z * step);
}

}  // namespace IWAE_ISA
}  // namespace iwae
