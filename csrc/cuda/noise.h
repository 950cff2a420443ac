// The noise of a call: a thread computes the four normals of one counter.
#pragma once

#include "../calls.h"
#include "../math/philox.h"
#include "load.h"
#include "math.h"

namespace iwae {
namespace IWAE_ISA {

constexpr int kQuad = 4;  // normals of a counter

// The arguments of a NoiseCall for the kernels.
struct NoisePlan {
  const uint64_t* seed = nullptr;
  int64_t samples = 0, observations = 0, dimensions = 0;
  uint32_t sample_offset = 0, observation_offset = 0, stream = 0;
  const int64_t* chosen = nullptr;
  int64_t chosen_strides[2] = {};

  int64_t quads() const { return ceil_divide(dimensions, kQuad); }
  int64_t rows() const { return samples * observations; }
};

inline NoisePlan plan_noise(const NoiseCall& call) {
  NoisePlan plan;
  plan.seed = call.seed;
  plan.samples = call.samples;
  plan.observations = call.observations;
  plan.dimensions = call.dimensions;
  plan.sample_offset = static_cast<uint32_t>(call.sample_offset);
  plan.observation_offset = static_cast<uint32_t>(call.observation_offset);
  plan.stream = static_cast<uint32_t>(call.stream);
  plan.chosen = reinterpret_cast<const int64_t*>(call.chosen.data);
  plan.chosen_strides[0] = call.chosen.strides[0];
  plan.chosen_strides[1] = call.chosen.strides[1];
  return plan;
}

// Four neighboring normals of a row; those beyond its end are undefined.
template <class T>
__device__ __forceinline__ void four_normals(const NoisePlan& plan, uint64_t seed, int64_t sample, int64_t observation,
                                             int64_t quad, T (&normal)[kQuad]) {
  const uint32_t index =
      plan.chosen != nullptr
          ? static_cast<uint32_t>(plan.chosen[sample * plan.chosen_strides[0] + observation * plan.chosen_strides[1]])
          : static_cast<uint32_t>(sample) + plan.sample_offset;
  PhiloxWords<Math<T>> words[1] = {
      {{static_cast<uint32_t>(quad), static_cast<uint32_t>(observation) + plan.observation_offset, index,
        plan.stream}}};
  philox(words, philox_keys<Math<T>>(seed));
#pragma unroll
  for (int pair = 0; pair < kQuad; pair += 2) {
    const NormalPair<Math<T>> made = two_normals<Math<T>>(static_cast<uint32_t>(words[0].word[pair]),
                                                          static_cast<uint32_t>(words[0].word[pair + 1]));
    normal[pair] = made.first;
    normal[pair + 1] = made.second;
  }
}

// The number of dimensions of a quad that exist.
__device__ __forceinline__ int size_of_quad(const NoisePlan& plan, int64_t quad) {
  const int64_t left = plan.dimensions - quad * kQuad;
  return left < kQuad ? static_cast<int>(left) : kQuad;
}

// Writes the part of a quad that exists to a contiguous row, 16 bytes at a time if the rows allow it.
template <class T>
__device__ __forceinline__ void store_quad(T* row, int64_t quad, int size, bool aligned, const T (&values)[kQuad]) {
  T* to = row + quad * kQuad;
  if (aligned) {
#pragma unroll
    for (int i = 0; i < kQuad; i += 16 / sizeof(T)) {
      Sixteen part;
      memcpy(&part, &values[i], sizeof part);
      *aligned_to_16(reinterpret_cast<Sixteen*>(to + i)) = part;
    }
    return;
  }
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    if (i < size) to[i] = values[i];
  }
}

// Returns true if contiguous rows of that many dimensions are aligned to 16 bytes and consist of whole quads.
inline bool quads_are_aligned(const void* data, int64_t dimensions) {
  return dimensions % kQuad == 0 && reinterpret_cast<uintptr_t>(data) % 16 == 0;
}

// Reads the part of a quad of one observation that exists, and widens it; 0 beyond.
template <class T>
__device__ __forceinline__ void load_quad(const View& view, int64_t row, int64_t quad, int size, T (&values)[kQuad]) {
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    values[i] = T(0);
    if (i < size) values[i] = load_one<T>(view.data, view.dtype, row + (quad * kQuad + i) * view.feature_stride);
  }
}

}  // namespace IWAE_ISA
}  // namespace iwae
