// What a density is: the formulas of one element, in a class template over `Math`, from which the loops of every device
// are instantiated. `Math` provides the value type (a scalar or a vector) and its elementary functions.
//
// A density (gaussian.h and its siblings) derives from DensityDefaults, replaces what differs, and defines
//   kParameters                the number of its tensors, at most kMaxParameters
//   add(p, sum, factors)       adds an element's term of log p, divided by kScale, to the sum. If kHasFactors, it also
//                              multiplies `factors` by a factor in [1, 2], whose logarithm is subtracted from the sum
//   gradients(p, slope)        d log p / d each parameter
#pragma once

#include "inline.h"

namespace iwae {
namespace IWAE_ISA {

template <class Math_>
struct DensityDefaults {
  using Math = Math_;
  using Scalar = typename Math::Scalar;
  using Value = typename Math::Value;

  // True if log p has logarithms, of which many elements share one.
  static constexpr bool kHasFactors = false;
  // True if the formulas take hundreds of instructions: GPU kernels then read one number at a time, since wide loads
  // would take registers and make nothing faster.
  static constexpr bool kLong = false;
  // True if 16-bit parameters are common enough for GPU kernels of their own.
  static constexpr bool kHalves = true;
  static constexpr double kScale = 1.0;  // exact: plus or minus a power of two, and 1 if kHasFactors
  static constexpr double kConstant = 0.0;  // added per observed feature

  // The replacement of padding and masked entries: all parameters together must add a term of 0 and a factor of 1.
  IWAE_EVERYWHERE static Scalar neutral(int /*parameter*/) { return Scalar(0); }
};

}  // namespace IWAE_ISA
}  // namespace iwae
