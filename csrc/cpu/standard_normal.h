// Standard normal noise (samples, observations, dimensions), each entry a function of the seed and its indices.
#pragma once

#include "noise.h"
#include "rows.h"

namespace iwae {
namespace IWAE_ISA {

template <class T>
static void standard_normal(const StandardNormalCall& call) {
  T* noise = static_cast<T*>(call.noise);
  const int64_t rows = call.samples * call.observations;
  const int threads = useful_threads(kElementsANormal * rows * call.dimensions, call.threads);
  parallel(rows, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t quad = 0; quad < quads(call); ++quad) {
        T normals[kQuad];
        quad_of_normals(call, row / call.observations, row % call.observations, quad, normals);
        for (int64_t i = 0; i < quad_size(call, quad); ++i) noise[row * call.dimensions + quad * kQuad + i] = normals[i];
      }
    }
  });
}

}  // namespace IWAE_ISA
}  // namespace iwae
