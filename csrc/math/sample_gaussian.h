// Reparameterized samples z = m + s eps of q = N(m, s^2), and log p(z) - log q(z) for p = N(0, 1), per element.
//
// `Math` provides the value type (a scalar or a vector) and its elementary functions.
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

// The contribution of -log q to the gradients of m and log s, per unit of upstream gradient of the log-ratio. With q's
// parameters held fixed, -log q is a function of z with derivative eps / s. Its contribution to log s is this times
// dz / dlog s = s eps, which is eps^2, computed without 1 / s, which may overflow. Otherwise eps does not depend on q's
// parameters, and -log q contributes through log s alone.
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

// The gradient of log s from the gradient of z = m + s eps. A gradient of zero gives zero even if s eps overflows.
template <class Math>
IWAE_INLINE typename Math::Value gaussian_step_gradient(typename Math::Value at_z, typename Math::Value step) {
  return Math::zero_where_zero(at_z, at_z * step);
}

}  // namespace IWAE_ISA
}  // namespace iwae
