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

// d (log p - log q) / dz. With q's parameters held fixed, -log q is a function of z with derivative eps / s: `score` is
// then 1 / s. Otherwise eps does not depend on them, `score` is 0, and what is left of -log q is log s itself.
template <class Math>
IWAE_INLINE typename Math::Value gaussian_log_ratio_slope(typename Math::Value eps, typename Math::Value z,
                                                          typename Math::Value score) {
  return score * eps - z;
}

// d / d log s of what arrives at z = m + s eps. Zero gives zero, also where the step s eps overflows.
template <class Math>
IWAE_INLINE typename Math::Value gaussian_step_gradient(typename Math::Value at_z, typename Math::Value step) {
  return Math::zero_where_zero(at_z, at_z * step);
}

}  // namespace IWAE_ISA
}  // namespace iwae
