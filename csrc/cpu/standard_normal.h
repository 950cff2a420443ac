// Standard normal noise (samples, observations, dimensions), each entry a function of the seed and its indices.
#pragma once

#include "noise.h"
#include "rows.h"

namespace iwae {
namespace IWAE_ISA {

template <class T>
static void standard_normal(const StandardNormalCall& call) {
  T* out = static_cast<T*>(call.noise);
  const int64_t rows = call.samples * call.observations;
  const int threads = useful_threads(kElementsANormal * rows * call.dimensions, call.threads);
  const Noise<T> noise(call);
  parallel(rows, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const NoiseRow words = noise.row(row / call.observations, row % call.observations);
      for (int64_t block = 0; block < noise.blocks(); ++block) {
        store_block(out + row * call.dimensions + block * Block<T>::kSize, noise.size(block), noise(words, block));
      }
    }
  });
}

}  // namespace IWAE_ISA
}  // namespace iwae
