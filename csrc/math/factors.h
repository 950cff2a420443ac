// Numbers as products of two.
#pragma once

#include "inline.h"

namespace iwae {
namespace IWAE_ISA {

// A number that may overflow, though its product with another number does not. Multiply in this order:
// (x * first) * second.
template <class Value>
struct Factors {
  Value first;
  Value second;
};

// 2^exponent times a mantissa from 1/sqrt(2) to sqrt(2).
template <class Value>
struct Binary {
  Value exponent;
  Value mantissa;
};

}  // namespace IWAE_ISA
}  // namespace iwae
