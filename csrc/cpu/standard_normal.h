// Standard normal noise (samples, observations, dimensions), each entry a function of the seed and its indices.
#pragma once

#include "../math/philox.h"
#include "calls.h"
#include "rows.h"

namespace iwae {
namespace IWAE_ISA {

template <class T>
static void standard_normal(const StandardNormalCall& call) {
  T* noise = static_cast<T*>(call.noise);
  const int64_t rows = call.samples * call.observations;
  // An entry costs as much as some ten elements of a density.
  parallel(rows, useful_threads(10 * rows * call.dimensions, call.threads), [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const uint32_t sample = static_cast<uint32_t>(row / call.observations + call.sample_offset);
      const uint32_t observation = static_cast<uint32_t>(row % call.observations + call.observation_offset);
      for (int64_t d = 0; d < call.dimensions; d += 4) {
        T normals[4];
        four_normals(philox({{static_cast<uint32_t>(d / 4), observation, sample, static_cast<uint32_t>(call.stream)}},
                            call.seed),
                     normals);
        const int64_t left = call.dimensions - d;
        for (int64_t i = 0; i < (left < 4 ? left : 4); ++i) noise[row * call.dimensions + d + i] = normals[i];
      }
    }
  });
}

}  // namespace IWAE_ISA
}  // namespace iwae
