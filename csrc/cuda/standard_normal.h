// Standard normal noise (samples, observations, dimensions).
#pragma once

#include "noise.h"

namespace iwae {
namespace IWAE_ISA {

template <class T>
IWAE_KERNEL standard_normal_kernel(const NoisePlan plan, const int64_t quads, const bool aligned, T* noise) {
  begin_kernel();
  const int64_t number = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const Division by_quad = divide(number, quads), by_observation = divide(by_quad.quotient, plan.observations);
  if (by_observation.quotient >= plan.samples) return;
  T normal[kQuad];
  four_normals(plan, *plan.seed, by_observation.quotient, by_observation.remainder, by_quad.remainder, normal);
  store_quad(noise + by_quad.quotient * plan.dimensions, by_quad.remainder, size_of_quad(plan, by_quad.remainder),
             aligned, normal);
}

template <class T>
void standard_normal(const StandardNormalCall& call) {
  const NoisePlan plan = plan_noise(call);
  launch(standard_normal_kernel<T>, ceil_divide(plan.rows() * plan.quads(), kThreads), 0, call.cuda_stream, plan,
         plan.quads(), quads_are_aligned(call.noise, plan.dimensions), static_cast<T*>(call.noise));
}

}  // namespace IWAE_ISA
}  // namespace iwae
