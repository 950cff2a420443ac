// A number as a product of two, for what would overflow by itself but not beside what it multiplies.
#pragma once

#include "inline.h"

namespace iwae {
namespace IWAE_ISA {

// To be multiplied in this order: (x * first) * second.
template <class Value>
struct Factors {
  Value first;
  Value second;
};

}  // namespace IWAE_ISA
}  // namespace iwae
