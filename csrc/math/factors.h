// A number as a product of two, for numbers that overflow but whose product with another number does not.
#pragma once

#include "inline.h"

namespace iwae {
namespace IWAE_ISA {

// Multiply in this order: (x * first) * second.
template <class Value>
struct Factors {
  Value first;
  Value second;
};

}  // namespace IWAE_ISA
}  // namespace iwae
