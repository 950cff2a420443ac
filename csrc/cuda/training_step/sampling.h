// The random parts of a step: pixels of a batch, samples of z, and the gradients that reach the encoder through them.
#pragma once

#include "../../math/sample_gaussian.h"
#include "../noise.h"
#include "run.h"

namespace iwae {
namespace IWAE_ISA {

constexpr uint32_t kPixelStream = (1u << 31) + 2;  // as PIXEL_STREAM in iwae_fast/experiments/train/pixels.py

// The gray levels of a quad of an observation's features; NaN for an observation that does not exist.
__device__ __forceinline__ void load_levels(const TrainingInputs& inputs, int64_t observation, int features, int quad,
                                            float (&level)[kQuad]) {
  const bool exists = observation >= 0 && observation < inputs.observations;
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    const int feature = quad * kQuad + i;
    level[i] = NAN;
    if (!exists || feature >= features) continue;
    const int64_t at = observation * features + feature;
    level[i] = inputs.bytes ? static_cast<float>(static_cast<const uint8_t*>(inputs.data)[at]) / inputs.divisor
                            : static_cast<const float*>(inputs.data)[at];
  }
}

// The batch of the next step, a quad of pixels per thread: copied, or drawn with the gray levels as probabilities. As
// batches_as_pixels in iwae_fast/experiments/train/pixels.py.
IWAE_NOT_INLINED void draw_pixels(const TrainingTask& task, StepView view, int item) {
  const TrainingInputs& inputs = view.run().inputs;
  const int step = view.step + 1, features = static_cast<int>(task.columns);
  if (step >= view.run().steps) return;
  const int quads = (features + kQuad - 1) / kQuad, index = item * kThreads + static_cast<int>(threadIdx.x);
  const int row = index / quads, quad = index - row * quads;
  if (row >= task.rows) return;
  float level[kQuad], normal[kQuad];
  load_levels(inputs, inputs.chosen[step * task.rows + row], features, quad, level);
  if (inputs.draws_pixels) {
    NoisePlan plan;
    plan.stream = kPixelStream;
    plan.sample_offset = inputs.first_step;
    four_normals(plan, inputs.pixel_seed, step, row, quad, normal);
  }
  float* const out = floats(task.out, task.other_parity, step & 1) + row * task.out_stride;
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    const int feature = quad * kQuad + i;
    if (feature >= features) break;
    const float drawn = erfcf(-0.70710678118654752f * normal[i]) > 2.0f - 2.0f * level[i] ? 1.0f : 0.0f;
    write_global(out + feature, inputs.draws_pixels && level[i] == level[i] ? drawn : level[i]);
  }
}

// A quad of the mean and log_std of an observation; 0 beyond their end.
struct PosteriorQuad {
  float mean[kQuad], log_std[kQuad];
  int size;

  __device__ __forceinline__ PosteriorQuad(const TrainingTask& task, int observation, int quad) {
    const int latent = static_cast<int>(task.columns), left = latent - quad * kQuad;
    const float* const from = floats(task.a) + observation * task.a_stride + quad * kQuad;
    size = left < 0 ? 0 : left < kQuad ? left : kQuad;
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      mean[i] = i < size ? read_global(from + i) : 0.0f;
      log_std[i] = i < size ? read_global(from + latent + i) : 0.0f;
    }
  }
};

__device__ __forceinline__ void latent_noise(StepView view, int sample, int observation, int quad,
                                             float (&eps)[kQuad]) {
  const NoisePlan plan;
  four_normals(plan, *view.run().inputs.seed + static_cast<uint64_t>(view.step), sample, observation, quad, eps);
}

// Samples of z and their log-ratios: neighboring lanes share a row, whose quads they take in turn.
IWAE_NOT_INLINED void sample_rows(const TrainingTask& task, StepView view, int item) {
  const int lanes = static_cast<int>(task.column_tiles), thread = static_cast<int>(threadIdx.x);
  const int quads = (static_cast<int>(task.columns) + kQuad - 1) / kQuad;
  const int row = item * (kThreads / lanes) + thread / lanes;
  const int observations = static_cast<int>(task.other_rows), sample = row / observations;
  const int observation = row - sample * observations;
  double sum = 0.0;
  if (row < task.rows) {
    float* const z = floats(task.out) + row * task.out_stride;
    for (int quad = thread % lanes; quad < quads; quad += lanes) {
      const PosteriorQuad q(task, observation, quad);
      float eps[kQuad], terms = 0.0f;
      latent_noise(view, sample, observation, quad, eps);
#pragma unroll
      for (int i = 0; i < kQuad; ++i) {
        const float value = q.mean[i] + Math<float>::exp(q.log_std[i]) * eps[i];
        if (i >= q.size) break;
        terms += gaussian_log_ratio<Math<float>>(eps[i], value, q.log_std[i]);
        write_global(z + quad * kQuad + i, value);
      }
      sum += static_cast<double>(terms);
    }
  }
  for (int distance = lanes / 2; distance > 0; distance /= 2) sum += __shfl_xor_sync(kAllLanes, sum, distance);
  if (row < task.rows && thread % lanes == 0) write_global(floats(task.sums) + row, static_cast<float>(sum));
}

constexpr int kPosteriorQuads = 16, kPosteriorLanes = kThreads / kPosteriorQuads;  // the lanes divide the samples
static_assert(2 * kQuad * kThreads * sizeof(double) <= kWorkFloats * sizeof(float), "the sums fit");

// The gradients of mean and log_std of an observation, for kPosteriorQuads quads of them: sums over its samples of the
// gradient at z, from the likelihood and the log-ratio, times the encoder's scale.
IWAE_NOT_INLINED void posterior_gradient(const TrainingTask& task, StepView view, int item) {
  double* const sums = reinterpret_cast<double*>(view.memory->work);
  const int blocks = static_cast<int>(task.column_tiles), observation = item / blocks;
  const int thread = static_cast<int>(threadIdx.x), lane = thread / kPosteriorQuads;
  const int quad = item % blocks * kPosteriorQuads + thread % kPosteriorQuads;
  const int observations = static_cast<int>(task.other_rows), samples = static_cast<int>(task.inner);
  const TrainingObjective& objective = view.run().objective;
  const PosteriorQuad q(task, observation, quad);
  float std[kQuad];
#pragma unroll
  for (int i = 0; i < kQuad; ++i) std[i] = Math<float>::exp(q.log_std[i]);
  double of_mean[kQuad] = {}, of_log_std[kQuad] = {};
  for (int sample = q.size > 0 ? lane : samples; sample < samples; sample += kPosteriorLanes) {
    const int64_t row = static_cast<int64_t>(sample) * observations + observation;
    const float scale = read_global(floats(task.encoder_scale) + row), ratio = objective.kl_weight * scale;
    const float* const at_z = floats(task.b) + row * task.b_stride + quad * kQuad;
    float eps[kQuad], gradient[kQuad];
#pragma unroll
    for (int i = 0; i < kQuad; ++i) gradient[i] = i < q.size ? read_global(at_z + i) : 0.0f;
    latent_noise(view, sample, observation, quad, eps);
    // A scale of zero gives zero even where z overflows: 0 * inf would be NaN.
    if (scale == 0.0f) continue;
#pragma unroll
    for (int i = 0; i < kQuad; ++i) {
      const float moved = std[i] * eps[i], z = q.mean[i] + moved;
      const float total = scale * gradient[i] - ratio * z;
      const ScoreGradient<float> score =
          gaussian_score_gradient<Math<float>>(objective.path_only, eps[i], objective.path_only ? 1.0f / std[i] : 0.0f);
      of_mean[i] += static_cast<double>(total + ratio * score.mean);
      of_log_std[i] += static_cast<double>(gaussian_step_gradient<Math<float>>(total, moved) + ratio * score.log_std);
    }
  }
#pragma unroll
  for (int i = 0; i < kQuad; ++i) {
    sums[i * kThreads + thread] = of_mean[i];
    sums[(kQuad + i) * kThreads + thread] = of_log_std[i];
  }
  __syncthreads();
  // A thread for each sum of a quad, so that the loads of all are under way together.
  const int which = lane;  // of mean, then of log_std
  if (which < 2 * kQuad) {
    double sum = 0.0;
    for (int other = thread % kPosteriorQuads; other < kThreads; other += kPosteriorQuads) {
      sum += sums[which * kThreads + other];
    }
    const int i = which % kQuad;
    if (i < q.size) {
      const int64_t at = observation * task.out_stride + (which < kQuad ? 0 : task.columns) + quad * kQuad + i;
      write_global(floats(task.out) + at, static_cast<float>(sum));
    }
  }
  __syncthreads();  // the block's memory is free
}

}  // namespace IWAE_ISA
}  // namespace iwae
