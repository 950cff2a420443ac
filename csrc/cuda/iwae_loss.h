// The fused losses: log-weights from likelihood and log-ratio, then weights and loss and, if requested, all gradients.
//
// Three ways, in the order in which they are tried: everything is read once and in one launch, where clusters of blocks
// have room for it (iwae_loss_once.h); with many observations, a block computes everything for one observation, and the
// second read of the likelihood's parameters hits the L2 cache; else rows, weights and gradients are separate launches.
#pragma once

#include "columns.h"
#include "density_backward.h"
#include "iwae_loss_once.h"
#include "loss_outputs.h"

namespace iwae {
namespace IWAE_ISA {

constexpr int64_t kMostSamplesABlock = 4096;  // their log-weights fit into 16 KiB of shared memory

// Fewer rows at a time: the second loop writes as much as it reads, and holds values of the first in registers.
using ForwardLoader = Vector<float>;
using BackwardLoader = Vector<float, 2>;

// One block per observation: log-weights, weights, bound, and the gradients of the parameters in `wanted`.
template <class Density>
IWAE_KERNEL iwae_loss_kernel(const Rows plan, const LossOutputs out, const unsigned wanted) {
  using T = float;
  constexpr int kRows = kRowsATeam<Density, ForwardLoader>, kFewRows = kRowsATeam<Density, BackwardLoader>;
  const Team team(plan.lanes_log2);
  T* log_weights = dynamic_shared<T>();
  __shared__ double place[kThreads / kWarp];
  const int samples = static_cast<int>(plan.walk.inner_count);
  const int64_t observation = blockIdx.x;
  const int teams = kThreads >> plan.lanes_log2, own = threadIdx.x >> plan.lanes_log2;
  // Starts at the first sample of the block's first team, so that all lanes of a warp have equally many iterations.
  for (int first = 0; first < samples; first += teams * plan.rows) {
    const int own_first = first + own * plan.rows;
    const Tile tile(plan, observation, own_first, plan.rows);
    double total[kRows];
    sum_rows<Density, ForwardLoader>(plan, tile, team, total);
    const View& log_ratio = plan.view[kRowIn];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r >= tile.rows || team.lane != 0) break;
      total[r] += load_one<double>(log_ratio.data, log_ratio.dtype, tile.row(plan, kRowIn, r));
      log_weights[own_first + r] = static_cast<T>(total[r]);
    }
  }
  __syncthreads();
  double largest = -INFINITY;
  for (int i = threadIdx.x; i < samples; i += kThreads) {
    largest = log_weights[i] > largest ? log_weights[i] : largest;
  }
  const T shift = static_cast<T>(finite(over_block(largest, place, [](double x, double y) { return y > x ? y : x; })));
  double total = 0.0;
  for (int i = threadIdx.x; i < samples; i += kThreads) {
    total += static_cast<double>(weight_of(log_weights[i], shift));
  }
  total = over_block(total, place, [](double x, double y) { return x + y; });
  const double scale = normalizer(total);
  const int64_t weights_offset = Tile(plan, observation, 0, 1).offset[kRowOut];
  T* weights = reinterpret_cast<T*>(plan.view[kRowOut].data) + weights_offset;
  for (int i = threadIdx.x; i < samples; i += kThreads) {
    const T weight = static_cast<T>(weight_of(log_weights[i], shift) * scale);
    weights[i * plan.walk.inner_strides[kRowOut]] = weight;
    log_weights[i] = weight;
  }
  if (threadIdx.x == 0) {
    const double bound = log_mean(static_cast<double>(shift), total, samples);
    write_bound<T>(out, observation, bound);
    if (out.reduced != nullptr) out.reduced[observation] = -bound;
  }
  if (wanted == 0) return;
  __syncthreads();
  // Backwards: the rows read last are most likely still in the cache.
  for (int number = static_cast<int>(ceil_divide(samples, kFewRows)) - 1 - own; number >= 0; number -= teams) {
    const Tile tile(plan, observation, number * kFewRows, kFewRows);
    T coefficient[kFewRows] = {};
#pragma unroll
    for (int r = 0; r < kFewRows; ++r) {
      if (r < tile.rows) coefficient[r] = -static_cast<T>(out.share) * log_weights[number * kFewRows + r];
    }
    write_gradients<Density, BackwardLoader>(plan, tile, team, coefficient, wanted);
  }
}

// Replaces contiguous log-weights (samples, observations) by normalized weights, and computes the bounds; a block's sum
// of the negated bounds is written to out.reduced.
template <class T>
IWAE_KERNEL weights_kernel(T* weights, const int64_t samples, const int64_t observations, const LossOutputs out) {
  __shared__ double place[kThreads / kWarp];
  const int64_t observation = static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x % kWarp;
  const bool present = observation < observations;
  const View view = {reinterpret_cast<char*>(weights), dtype_of<T>(), 0, false, false};
  const Column<T> column(view, present ? observation : 0, observations, samples, present);
  const bool first = present && column.sample_lane == 0;
  if (first) write_bound<T>(out, observation, column.bound());
  if (out.losses == nullptr) {
    const double sum = over_block(first ? -column.bound() : 0.0, place, [](double x, double y) { return x + y; });
    if (threadIdx.x == 0 && out.loss != nullptr) *static_cast<T*>(out.loss) = static_cast<T>(sum * out.share);
    if (threadIdx.x == 0 && out.reduced != nullptr) out.reduced[blockIdx.x] = sum;
  }
  if (!present) return;
  const double scale = normalizer(column.total);
  for (int64_t i = column.sample_lane; i < samples; i += kSampleLanes) {
    weights[i * observations + observation] = static_cast<T>(column.weight(i) * scale);
  }
}

// Computes a loss in one launch, with one block per observation, if there are enough observations and a loader takes
// all rows; returns false otherwise.
template <class Density>
bool iwae_loss_together(const IWAELossCall& call, const Operand* gradients, unsigned wanted) {
  if constexpr (std::is_same<typename Density::Scalar, float>::value) {
    const int64_t observations = observations_of(call), samples = call.shape.sizes[0];
    View views[kOperands];
    if (observations < kManyObservations || samples > kMostSamplesABlock ||
        !fits<Density, ForwardLoader>(call, gradients, views)) {
      return false;
    }
    const LossOutputs out = outputs_of(call, observations);
    launch(iwae_loss_kernel<Density>, observations, samples * int64_t{sizeof(float)}, call.cuda_stream,
           loss_rows<Density, ForwardLoader>(call, gradients, views), out, wanted);
    add_parts<float>(call, out, observations);
    return true;
  }
  return false;
}

// Rows, weights and gradients in a launch each.
template <class Density>
void iwae_loss_apart(const IWAELossCall& call, const DensityBackwardCall& kept, unsigned wanted) {
  using T = typename Density::Scalar;
  const int64_t observations = observations_of(call), parts = ceil_divide(observations, kWarp);
  const LossOutputs out = outputs_of(call, parts, parts == 1);
  log_prob<Density>(call, call.log_ratio, call.log_prob);
  launch(weights_kernel<T>, parts, 0, call.cuda_stream, static_cast<T*>(call.log_prob), call.shape.sizes[0],
         observations, out);
  add_parts<T>(call, out, parts);
  if (wanted == 0) return;
  RowCoefficients coefficients;
  coefficients.share = out.share;
  coefficients.weights = static_cast<const char*>(call.log_prob);
  density_backward<Density>(kept, coefficients);
}

template <class Density>
void iwae_loss(const IWAELossCall& call) {
  DensityBackwardCall kept;
  static_cast<DensityCall&>(kept) = call;
  unsigned wanted = 0;
  for (int p = 0; p < Density::kParameters; ++p) {
    if (call.kept[p] == nullptr) continue;
    kept.gradients[p] = contiguous(call.kept[p], call.parameters[p].dtype, call.shape, call.shape.dims);
    wanted |= 1u << p;
  }
  if (iwae_loss_once<Density>(call, kept.gradients, wanted)) return;
  if (iwae_loss_together<Density>(call, kept.gradients, wanted)) return;
  iwae_loss_apart<Density>(call, kept, wanted);
}

template <class Density>
void iwae_loss_backward(const IWAELossBackwardCall& call) {
  DensityBackwardCall density;
  static_cast<DensityCall&>(density) = call;
  density.grad = call.grad;
  for (int p = 0; p < kMaxParameters; ++p) density.gradients[p] = call.gradients[p];
  RowCoefficients coefficients;
  coefficients.weights = static_cast<const char*>(call.weights);
  coefficients.written = static_cast<char*>(call.grad_log_ratio);
  coefficients.share = share_of(call.reduction, observations_of(call));
  density_backward<Density>(density, coefficients);
}

}  // namespace IWAE_ISA
}  // namespace iwae
