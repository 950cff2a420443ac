// The log-weights of an observation, its bound, and the scales of its samples' gradients.
#pragma once

#include "../../math/weight_scales.h"
#include "../columns.h"
#include "run.h"

namespace iwae {
namespace IWAE_ISA {

constexpr int kTrainingMetrics = 3;  // of an observation: bound, effective sample size, largest weight

IWAE_NOT_INLINED void weigh_observation(const TrainingTask& task, StepView view, int observation) {
  const TrainingRun& run = view.run();
  const TrainingObjective& objective = run.objective;
  double* const place = view.memory->sums;
  const int observations = static_cast<int>(task.rows), samples = static_cast<int>(task.inner);
  const int parts = static_cast<int>(task.parts), thread = static_cast<int>(threadIdx.x);
  float* const log_weights = floats(task.out);
  const auto row_of = [&](int sample) { return static_cast<int64_t>(sample) * observations + observation; };
  const auto added = [](double x, double y) { return x + y; };

  double most = -INFINITY, total = 0.0;
  for (int sample = thread; sample < samples; sample += kThreads) {
    const int64_t row = row_of(sample);
    const float* const terms = floats(task.sums) + row * task.sums_stride;
    double log_weight = 0.0;
#pragma unroll 4
    for (int part = 0; part < parts; ++part) log_weight += static_cast<double>(read_global(terms + part));
    log_weight += static_cast<double>(objective.kl_weight * read_global(floats(task.other) + row));
    write_global(log_weights + row, static_cast<float>(log_weight));
    most = log_weight > most ? log_weight : most;
    total += log_weight;
  }
  const double largest = over_block(most, place, [](double x, double y) { return y > x ? y : x; });
  const double mean = over_block(total, place, added) / samples;
  const float shift = finite(static_cast<float>(largest)), power = objective.power;

  double sum = 0.0, squares = 0.0, powers = 0.0;
  for (int sample = thread; sample < samples; sample += kThreads) {
    const float log_weight = read_global(log_weights + row_of(sample));
    const double weight = static_cast<double>(weight_of(log_weight, shift));
    sum += weight;
    squares += weight * weight;
    if (power != 1.0f) powers += static_cast<double>(weight_of(power * log_weight, power * shift));
  }
  sum = over_block(sum, place, added);
  squares = over_block(squares, place, added);
  powers = power == 1.0f ? sum : over_block(powers, place, added);
  const float normalized = static_cast<float>(normalizer(powers)), equal = 1.0f / static_cast<float>(samples);

  struct {
    double power, factor, linear, quadratic, rounding;
  } const numbers = {power, 1.0, objective.linear, objective.quadratic, 0.0};
  const ScaleFactors<float> by(numbers);
  for (int sample = thread; sample < samples; sample += kThreads) {
    const int64_t row = row_of(sample);
    const float log_weight = read_global(log_weights + row);
    // A weight of zero has no gradient.
    const float even = log_weight == -INFINITY ? 0.0f : equal;
    const float weight = power == 0.0f ? even : normalized * weight_of(power * log_weight, power * shift);
    const WeightScales<Math<float>> scales = weight_scales_of<Math<float>>(weight, by);
    write_global(floats(task.decoder_scale) + row, -objective.factor * scales.decoder);
    write_global(floats(task.encoder_scale) + row, -objective.factor * scales.encoder);
  }
  if (thread == 0) {
    const int64_t first = static_cast<int64_t>(view.step) * kTrainingMetrics * observations;
    float* const metrics = run.metrics + first + observation;
    const double bound =
        power == 0.0f ? mean
                      : log_mean(static_cast<double>(power) * static_cast<double>(shift), powers, samples) / power;
    write_global(metrics, static_cast<float>(bound));
    write_global(metrics + observations, static_cast<float>(squares == 0.0 ? 0.0 : sum * sum / squares));
    const double top = weight_of(static_cast<float>(largest), shift);
    write_global(metrics + 2 * observations, static_cast<float>(top * normalizer(sum)));
  }
  __syncthreads();  // the block's memory is free
}

}  // namespace IWAE_ISA
}  // namespace iwae
