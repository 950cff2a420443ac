// The densities: each is a row of IWAE_DENSITIES, and the header of its formulas.
#pragma once

// X(Name, python_name) for the class template NameDensity of csrc/math, and the name in iwae_fast.reference.DENSITIES.
// A biased Bernoulli belongs to the ops of linear layers, and is not an op of its own.
#define IWAE_DENSITIES(X)                \
  X(Gaussian, gaussian)                  \
  X(StandardGaussian, standard_gaussian) \
  X(Bernoulli, bernoulli)                \
  X(BiasedBernoulli, biased_bernoulli)   \
  X(NegativeBinomial, negative_binomial) \
  X(ZeroInflatedNegativeBinomial, zero_inflated_negative_binomial)

#ifdef IWAE_ISA  // the bindings need the names alone
#include "math/bernoulli.h"
#include "math/gaussian.h"
#include "math/negative_binomial.h"
#include "math/standard_gaussian.h"
#endif

namespace iwae {

#define IWAE_KIND(Name, python_name) k##Name,
enum class DensityKind : int { IWAE_DENSITIES(IWAE_KIND) };
#undef IWAE_KIND

}  // namespace iwae
