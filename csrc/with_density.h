// From the density that a call names to its formulas, with the elementary functions of a device: Math is Simd or Math.
#pragma once

#include "calls.h"
#include "densities.h"

namespace iwae {
namespace IWAE_ISA {

template <class Density>
constexpr Density checked() {
  static_assert(Density::kParameters <= kMaxParameters, "raise kMaxParameters in csrc/operand.h");
  static_assert(!Density::kHasFactors || Density::kScale == 1.0, "a sum with factors is not scaled");
  return {};
}

template <class Math, class Body>
static void with_kind(DensityKind kind, const Body& body) {
  switch (kind) {
#define IWAE_CASE(Name, python_name) \
  case DensityKind::k##Name: return body(checked<Name##Density<Math>>());
    IWAE_DENSITIES(IWAE_CASE)
#undef IWAE_CASE
  }
}

// Calls body with the density of a call, in the dtype of its computation.
template <template <class> class Math, class Body>
static void with_density(const DensityCall& call, const Body& body) {
  call.float64 ? with_kind<Math<double>>(call.kind, body) : with_kind<Math<float>>(call.kind, body);
}

// The same for a fused loss, whose density is a likelihood: it has parameters besides the value.
template <template <class> class Math, class Body>
static void with_likelihood(const DensityCall& call, const Body& body) {
  with_density<Math>(call, [&](auto density) {
    if constexpr (decltype(density)::kParameters > 1) body(density);
  });
}

}  // namespace IWAE_ISA
}  // namespace iwae
