// Reparameterized samples z = m + s eps with log p(z) - log q(z | x) = 1/2 sum [eps^2 - z^2 + 2 log s], p = N(0, I).
//
// Nothing of the size of z is saved for the backward pass, which recomputes the noise.
#pragma once

#include "../math/sample_gaussian.h"
#include "density.h"
#include "noise.h"

namespace iwae {
namespace IWAE_ISA {

// The parameters of q for each observation.
struct PosteriorPlan {
  View mean, log_std;
  int64_t mean_stride = 0, log_std_stride = 0;
};

template <class Call>
PosteriorPlan plan_posterior(const Call& call) {
  return {view_of(call.mean, 2), view_of(call.log_std, 2), call.mean.strides[1], call.log_std.strides[1]};
}

// A team processes a row; its lanes take the quads in turn.
template <class T>
IWAE_KERNEL sample_gaussian_kernel(const NoisePlan plan, const PosteriorPlan q, const int64_t quads,
                                   const int lanes_log2, const bool aligned, T* z, T* log_ratio) {
  begin_kernel();
  const Team team(lanes_log2);
  const Division at = divide(team.index, plan.observations);
  const int64_t observation = at.remainder;
  const bool present = at.quotient < plan.samples;
  const uint64_t seed = *plan.seed;
  double sum = 0.0;
  for (int64_t quad = team.lane; present && quad < quads; quad += team.lanes) {
    const int size = size_of_quad(plan, quad);
    T eps[kQuad], mean[kQuad], log_std[kQuad], values[kQuad], part = T(0);
    load_quad(q.mean, observation * q.mean_stride, quad, size, mean);
    load_quad(q.log_std, observation * q.log_std_stride, quad, size, log_std);
    four_normals(plan, seed, at.quotient, observation, quad, eps);
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      values[i] = mean[i] + Math<T>::exp(log_std[i]) * eps[i];
      if (i < size) part += gaussian_log_ratio<Math<T>>(eps[i], values[i], log_std[i]);
    }
    store_quad(z + team.index * plan.dimensions, quad, size, aligned, values);
    sum += static_cast<double>(part);
  }
  sum = team.sum(sum);
  if (present && team.lane == 0) log_ratio[team.index] = static_cast<T>(sum);
}

template <class T>
void sample_gaussian(const SampleGaussianCall& call) {
  const NoisePlan plan = plan_noise(call);
  const int lanes_log2 = lanes_for(plan.quads());
  launch(sample_gaussian_kernel<T>, ceil_divide(plan.rows(), kThreads >> lanes_log2), 0, call.cuda_stream, plan,
         plan_posterior(call), plan.quads(), lanes_log2, quads_are_aligned(call.z, plan.dimensions),
         static_cast<T*>(call.z), static_cast<T*>(call.log_ratio));
}

// The upstream gradients, null if not given, and the gradients to compute, contiguous (observations, dimensions).
struct SampleGradientPlan {
  View grad_z, grad_log_ratio, grad_mean, grad_log_std;
  int64_t z_strides[2] = {}, log_ratio_strides[2] = {};  // along samples and observations
  bool path_only = false;
};

// A block processes kQuadLanes quads of one observation; the other lanes divide the samples, over which it sums.
constexpr int kQuadLanes = 16, kDrawLanes = kThreads / kQuadLanes;

template <class T>
IWAE_KERNEL sample_gaussian_gradient_kernel(const NoisePlan plan, const PosteriorPlan q, const SampleGradientPlan g,
                                            const int64_t quad_blocks, const int64_t quads) {
  begin_kernel();
  __shared__ double place[2 * kQuad][kThreads];
  constexpr int kDrawsASum = 16;
  const Division at = divide(blockIdx.x, quad_blocks);
  const int64_t observation = at.quotient, quad = at.remainder * kQuadLanes + threadIdx.x % kQuadLanes;
  const int draw_lane = threadIdx.x / kQuadLanes, size = quad < quads ? size_of_quad(plan, quad) : 0;
  const uint64_t seed = *plan.seed;
  T mean[kQuad], log_std[kQuad], std[kQuad];
  load_quad(q.mean, observation * q.mean_stride, quad, size, mean);
  load_quad(q.log_std, observation * q.log_std_stride, quad, size, log_std);
#pragma unroll
  for (int i = 0; i < kQuad; ++i) std[i] = Math<T>::exp(log_std[i]);
  double total_mean[kQuad] = {}, total_log_std[kQuad] = {};
  const int64_t draws = size > 0 ? plan.samples : 0;
  for (int64_t first = draw_lane; first < draws; first += kDrawsASum * kDrawLanes) {
    T sum_mean[kQuad] = {}, sum_log_std[kQuad] = {};
    for (int turn = 0; turn < kDrawsASum; ++turn) {
      const int64_t sample = first + turn * kDrawLanes;
      if (sample >= draws) break;
      T eps[kQuad], at_z[kQuad] = {}, weight = T(0);
      four_normals(plan, seed, sample, observation, quad, eps);
      if (g.grad_z.data) {
        load_quad(g.grad_z, sample * g.z_strides[0] + observation * g.z_strides[1], quad, size, at_z);
      }
      if (g.grad_log_ratio.data) {
        weight = load_one<T>(g.grad_log_ratio.data, g.grad_log_ratio.dtype,
                             sample * g.log_ratio_strides[0] + observation * g.log_ratio_strides[1]);
      }
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
        const T step = std[i] * eps[i], z = mean[i] + step;
        // A weight of zero gives zero even where z overflows: 0 * inf would be NaN.
        if (weight != T(0)) {
          const ScoreGradient<T> score =
              gaussian_score_gradient<Math<T>>(g.path_only, eps[i], g.path_only ? T(1) / std[i] : T(0));
          at_z[i] -= weight * z;
          sum_mean[i] += weight * score.mean;
          sum_log_std[i] += weight * score.log_std;
        }
        sum_mean[i] += at_z[i];
        sum_log_std[i] += gaussian_step_gradient<Math<T>>(at_z[i], step);
      }
    }
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      total_mean[i] += static_cast<double>(sum_mean[i]);
      total_log_std[i] += static_cast<double>(sum_log_std[i]);
    }
  }
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    place[i][threadIdx.x] = total_mean[i];
    place[kQuad + i][threadIdx.x] = total_log_std[i];
  }
  __syncthreads();
  if (draw_lane != 0) return;
  for (int i = 0; i < size; ++i) {
    double of_mean = 0.0, of_log_std = 0.0;
    for (int other = threadIdx.x; other < kThreads; other += kQuadLanes) {
      of_mean += place[i][other];
      of_log_std += place[kQuad + i][other];
    }
    const int64_t out = observation * plan.dimensions + quad * kQuad + i;
    store_one(g.grad_mean.data, g.grad_mean.dtype, out, of_mean);
    store_one(g.grad_log_std.data, g.grad_log_std.dtype, out, of_log_std);
  }
}

template <class T>
void sample_gaussian_backward(const SampleGaussianBackwardCall& call) {
  const NoisePlan plan = plan_noise(call);
  SampleGradientPlan gradients;
  gradients.grad_z = view_of(call.grad_z, 2);
  gradients.grad_log_ratio = view_of(call.grad_log_ratio, 2);
  gradients.grad_mean = view_of(call.grad_mean, 2);
  gradients.grad_log_std = view_of(call.grad_log_std, 2);
  for (int axis = 0; axis < 2; ++axis) {
    gradients.z_strides[axis] = call.grad_z.strides[axis];
    gradients.log_ratio_strides[axis] = call.grad_log_ratio.strides[axis];
  }
  gradients.path_only = call.path_only;
  const int64_t quad_blocks = ceil_divide(plan.quads(), kQuadLanes);
  launch(sample_gaussian_gradient_kernel<T>, plan.observations * quad_blocks, 0, call.cuda_stream, plan,
         plan_posterior(call), gradients, quad_blocks, plan.quads());
}

}  // namespace IWAE_ISA
}  // namespace iwae
