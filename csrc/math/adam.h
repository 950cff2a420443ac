// Adam (Kingma & Ba 2015) and AdamW (Loshchilov & Hutter 2019), in the order of operations of torch.optim.
#pragma once

#include <cmath>

#include "../calls.h"
#include "inline.h"

namespace iwae {
namespace IWAE_ISA {

// The numbers of a step that all elements of a tensor share.
template <class T>
struct AdamCoefficients {
  T gradient;   // factor of the gradient: its sign, the loss scale and the clipping
  T kept;       // 1 - lr weight_decay if it is decoupled, otherwise 1
  T penalty;    // weight decay that is added to the gradient
  T first;      // 1 - beta1
  T second;     // 1 - beta2
  T beta2;
  T step;       // lr / (1 - beta1^t)
  T deviation;  // sqrt(1 - beta2^t)
  T eps;
};

// `taken` steps were taken before this one; `squares` is the sum of the squares of all gradients before their division
// by `scale`. In double: 1 - beta^t loses precision for small t.
template <class T>
IWAE_INLINE AdamCoefficients<T> adam_coefficients(const AdamSettings& settings, double taken, double rate,
                                                  double scale, double squares) {
  const double t = taken + 1.0;
  const double deviation = sqrt(-expm1(t * settings.log_beta2));
  double gradient = (settings.maximize ? -1.0 : 1.0) / scale;
  if (settings.clips) {
    const double factor = settings.max_norm / (sqrt(squares) / scale + 1e-6);  // as torch.nn.utils.clip_grad_norm_
    gradient *= factor > 1.0 ? 1.0 : factor;
  }
  AdamCoefficients<T> made;
  made.gradient = static_cast<T>(gradient);
  made.kept = static_cast<T>(settings.decoupled ? 1.0 - rate * settings.weight_decay : 1.0);
  made.penalty = static_cast<T>(settings.decoupled ? 0.0 : settings.weight_decay);
  made.first = static_cast<T>(1.0 - settings.beta1);
  made.second = static_cast<T>(1.0 - settings.beta2);
  made.beta2 = static_cast<T>(settings.beta2);
  made.step = static_cast<T>(rate / -expm1(t * settings.log_beta1));
  made.deviation = static_cast<T>(deviation);
  made.eps = static_cast<T>(settings.corrects_eps ? settings.eps / deviation : settings.eps);
  return made;
}

// The update of a number or of a vector of numbers.
template <class Math, class Value, class T>
IWAE_INLINE void adam_update(const AdamCoefficients<T>& c, Value gradient, Value& parameter, Value& first,
                             Value& second) {
  gradient = gradient * c.gradient;
  parameter = parameter * c.kept;
  if (c.penalty != T(0)) gradient = gradient + parameter * c.penalty;
  first = first + (gradient - first) * c.first;
  // In this order compilers contract the sum as torch's kernel of the CPU does, which gives the same bits.
  second = gradient * c.second * gradient + second * c.beta2;
  parameter = parameter - first * c.step / (Math::sqrt(second) / c.deviation + c.eps);
}

}  // namespace IWAE_ISA
}  // namespace iwae
