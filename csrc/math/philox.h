// Philox4x32-10, the counter-based generator of Salmon et al. 2011, and standard normals from it.
//
// `Math` provides the types of words and values (scalars or vectors) and their functions. A word is the lower half of
// an unsigned 64-bit integer, so that a product is one operation; the upper half is never read.
#pragma once

#include <cstdint>

#include "inline.h"

namespace iwae {
namespace IWAE_ISA {

constexpr int kPhiloxRounds = 10;

template <class Math>
struct PhiloxWords {
  typename Math::Word word[4];
};

// Computed once for many counters.
template <class Math>
struct PhiloxKeys {
  typename Math::Word round[kPhiloxRounds][2];
};

template <class Math>
IWAE_INLINE PhiloxKeys<Math> philox_keys(uint64_t seed) {
  PhiloxKeys<Math> keys;
  uint32_t key0 = static_cast<uint32_t>(seed), key1 = static_cast<uint32_t>(seed >> 32);
  for (int round = 0; round < kPhiloxRounds; ++round) {
    keys.round[round][0] = Math::word(key0);
    keys.round[round][1] = Math::word(key1);
    key0 += 0x9E3779B9u;
    key1 += 0xBB67AE85u;
  }
  return keys;
}

// Computes the random words of one or several counters. Several are interleaved, since the rounds of a single one are a
// chain of dependent operations.
template <class Math, int kCounters>
IWAE_INLINE void philox(PhiloxWords<Math> (&counters)[kCounters], const PhiloxKeys<Math>& keys) {
  for (int round = 0; round < kPhiloxRounds; ++round) {
    for (PhiloxWords<Math>& counter : counters) {
      const typename Math::Word product0 = Math::product(counter.word[0], 0xD2511F53u);
      const typename Math::Word product1 = Math::product(counter.word[2], 0xCD9E8D57u);
      counter = {{(product1 >> 32) ^ counter.word[1] ^ keys.round[round][0], product1,
                  (product0 >> 32) ^ counter.word[3] ^ keys.round[round][1], product0}};
    }
  }
}

// A uniform number in (0, 1), exact in float32: 23 bits plus a half.
template <class Math>
IWAE_INLINE typename Math::Value open_uniform(typename Math::Bits bits) {
  using T = typename Math::Scalar;
  constexpr T kStep = T(1.1920928955078125e-7);
  return Math::value(bits >> 9) * kStep + kStep / 2;
}

template <class Math>
struct NormalPair {
  typename Math::Value first, second;
};

// Box-Muller. A counter gives four normals: two from its words 0 and 1, two from its words 2 and 3.
template <class Math>
IWAE_INLINE NormalPair<Math> two_normals(typename Math::Bits radius_bits, typename Math::Bits angle_bits) {
  using T = typename Math::Scalar;
  const typename Math::Value radius = Math::sqrt(T(-2) * Math::log(open_uniform<Math>(radius_bits)));
  typename Math::Value cosine, sine;
  Math::cos_sin_of_turns(open_uniform<Math>(angle_bits), cosine, sine);
  return {radius * cosine, radius * sine};
}

}  // namespace IWAE_ISA
}  // namespace iwae
