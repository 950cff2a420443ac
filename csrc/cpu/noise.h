// The noise of a call, four neighbouring dimensions at a time.
#pragma once

#include "../math/philox.h"
#include "calls.h"

namespace iwae {
namespace IWAE_ISA {

constexpr int64_t kQuad = 4;              // normals of one counter
constexpr int64_t kElementsANormal = 10;  // a normal costs as much as some ten elements of a density

static inline int64_t quads(const NoiseCall& call) { return (call.dimensions + kQuad - 1) / kQuad; }

// How many of the dimensions of this quad exist.
static inline int64_t quad_size(const NoiseCall& call, int64_t quad) {
  const int64_t left = call.dimensions - quad * kQuad;
  return left < kQuad ? left : kQuad;
}

template <class T>
static inline void quad_of_normals(const NoiseCall& call, int64_t sample, int64_t observation, int64_t quad,
                                   T* normals) {
  const PhiloxWords counter = {{static_cast<uint32_t>(quad), static_cast<uint32_t>(observation + call.observation_offset),
                                static_cast<uint32_t>(sample + call.sample_offset), static_cast<uint32_t>(call.stream)}};
  four_normals(philox(counter, call.seed), normals);
}

}  // namespace IWAE_ISA
}  // namespace iwae
