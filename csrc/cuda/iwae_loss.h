// The fused losses: log-weights from likelihood and log-ratio, then weights and loss and, if requested, all gradients.
//
// Three ways, in the order in which they are tried: everything is read once and in one launch, where clusters of blocks
// have room for it (iwae_loss_once.h); with many observations, a block computes everything for one observation, and the
// second read of the likelihood's parameters hits the L2 cache; else, and for long formulas, whose time is not that of
// memory, rows, weights and gradients are separate launches.
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
  begin_kernel();
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

// Replaces contiguous log-weights (samples, observations) by normalized weights, and computes the bounds; the sum of
// the negated bounds of a block's columns is written to out.reduced.
template <class T, int kWide>
IWAE_KERNEL weights_kernel(const Columns<1> columns, const Parts<T> parts, const LossOutputs out) {
  begin_kernel();
  __shared__ double place[kThreads / kWarp];
  const Spot<kWide> spot(columns);
  Held<T, kWide> held(columns, spot);
  Total<T> total[kWide];
  const bool is_held = total_of(columns, spot, parts, held, total);
  if (spot.split == 0) {  // the same for all threads of the block
    double sum = 0.0;
    for (int w = 0; w < kWide && spot.present() && spot.sample_lane == 0; ++w) {
      const double bound = log_mean(finite(total[w].largest), total[w].sum, columns.samples);
      write_bound<T>(out, spot.column + w, bound);
      sum -= bound;
    }
    if (out.losses == nullptr) {
      sum = over_block(sum, place, [](double x, double y) { return x + y; });
      if (threadIdx.x == 0 && out.loss != nullptr) *static_cast<T*>(out.loss) = static_cast<T>(sum * out.share);
      if (threadIdx.x == 0 && out.reduced != nullptr) out.reduced[spot.block] = sum;
    }
  }
  if (!spot.present()) return;
  for_weights(columns, spot, held, is_held, total, [&](int64_t sample, T(&weights)[kWide]) {
#pragma unroll
    for (int w = 0; w < kWide; ++w) weights[w] = static_cast<T>(weights[w] * normalizer(total[w].sum));
    store_weights(columns.log_weights, held.offset + sample * held.stride, weights);
  });
}

// Computes a loss in one launch, with one block per observation, if there are enough observations and a loader takes
// all rows; returns false otherwise.
template <class Density>
bool iwae_loss_together(const IWAELossCall& call, const Operand* gradients, unsigned wanted) {
  if constexpr (std::is_same<typename Density::Scalar, float>::value && !Density::kLong) {
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
  Shape shape;
  shape.dims = 2;
  shape.sizes[0] = call.shape.sizes[0];
  shape.sizes[1] = observations_of(call);
  const Operand log_weights = contiguous(call.log_prob, dtype_of<T>(), shape, shape.dims);
  const Operand* operands[1] = {&log_weights};
  const Columns<1> columns = columns_of<T>(shape, operands, 1u);
  const int64_t blocks = columns.column_blocks();
  const LossOutputs out = outputs_of(call, blocks, blocks == 1);
  log_prob<Density>(call, call.log_ratio, call.log_prob);
  const Parts<T> parts = parts_of<T>(columns, call);
  with_width<T>(columns, [&](auto width) {
    launch(weights_kernel<T, decltype(width)::value>, columns.blocks(), 0, call.cuda_stream, columns, parts, out);
  });
  add_parts<T>(call, out, blocks);
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
