// Philox4x32-10, the counter-based generator of Salmon et al. 2011, and standard normals from it.
#pragma once

#include <cmath>
#include <cstdint>

#include "inline.h"

namespace iwae {
namespace IWAE_ISA {

struct PhiloxWords {
  uint32_t word[4];
};

IWAE_INLINE PhiloxWords philox(PhiloxWords counter, uint64_t seed) {
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const uint64_t product0 = uint64_t{0xD2511F53u} * counter.word[0];
    const uint64_t product1 = uint64_t{0xCD9E8D57u} * counter.word[2];
    counter = {{static_cast<uint32_t>(product1 >> 32) ^ counter.word[1] ^ key0, static_cast<uint32_t>(product1),
                static_cast<uint32_t>(product0 >> 32) ^ counter.word[3] ^ key1, static_cast<uint32_t>(product0)}};
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return counter;
}

// In (0, 1) and exact in float32: 23 bits and a half.
template <class T>
IWAE_INLINE T open_uniform(uint32_t bits) {
  return (static_cast<T>(bits >> 9) + T(0.5)) * T(1.1920928955078125e-7);
}

// Four standard normals of one counter, by Box-Muller on the pairs of words (0, 1) and (2, 3).
template <class T>
IWAE_INLINE void four_normals(PhiloxWords words, T* out) {
  for (int pair = 0; pair < 2; ++pair) {
    const T radius = std::sqrt(T(-2) * std::log(open_uniform<T>(words.word[2 * pair])));
    const T angle = T(6.283185307179586477) * open_uniform<T>(words.word[2 * pair + 1]);
    out[2 * pair] = radius * std::cos(angle);
    out[2 * pair + 1] = radius * std::sin(angle);
  }
}

}  // namespace IWAE_ISA
}  // namespace iwae
