// The fused losses: log-weights from likelihood and log-ratio, then weights and loss and, if requested, all gradients.
//
// With many observations, a block computes everything for one observation in a single launch: the log-weights stay in
// shared memory, and the second read of the likelihood's parameters hits the L2 cache. With few observations, which
// would leave most of the GPU idle, and for operands that cannot be read as 16 bytes of float32, rows, weights and
// gradients are separate launches.
#pragma once

#include "columns.h"
#include "density_backward.h"

namespace iwae {
namespace IWAE_ISA {

constexpr int64_t kMostSamplesABlock = 4096;  // their log-weights fit into 16 KiB of shared memory

// Fewer rows at a time: the second loop writes as much as it reads, and holds values of the first in registers.
using ForwardLoader = Vector<float>;
using BackwardLoader = Vector<float, 2>;

// The outputs of a loss besides the weights (at kRowOut).
struct LossOutputs {
  void* bound = nullptr;      // per observation, in the dtype of the call; null if not requested
  void* losses = nullptr;     // the negated bounds, in the dtype of the call; null if they are reduced
  double* reduced = nullptr;  // the negated bound, or a block's sum of them, for loss_kernel
  void* loss = nullptr;       // their sum times the share, if one block has all of them
  double share = 1.0;
};

template <class T>
__device__ __forceinline__ void write_bound(const LossOutputs& out, int64_t observation, double bound) {
  if (out.bound != nullptr) static_cast<T*>(out.bound)[observation] = static_cast<T>(bound);
  if (out.losses != nullptr) static_cast<T*>(out.losses)[observation] = static_cast<T>(-bound);
}

// The last step of a reduction: the sum of the parts times the share, by one block, in a fixed order.
template <class T>
IWAE_KERNEL loss_kernel(const double* parts, const int64_t count, const double share, T* loss) {
  __shared__ double place[kThreads / kWarp];
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += parts[i];
  sum = over_block(sum, place, [](double x, double y) { return x + y; });
  if (threadIdx.x == 0) *loss = static_cast<T>(sum * share);
}

// One block per observation: log-weights, weights, bound, and the gradients of the parameters in `wanted`.
template <class Density>
IWAE_KERNEL iwae_loss_kernel(const Rows plan, const Coefficients coefficients, const LossOutputs out,
                             const unsigned wanted) {
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
      if (r < tile.rows) coefficient[r] = -static_cast<T>(coefficients.share) * log_weights[number * kFewRows + r];
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

inline int64_t observations_of(const DensityCall& call) {
  int64_t count = 1;
  for (int axis = 1; axis < call.shape.dims - 1; ++axis) count *= call.shape.sizes[axis];
  return count;
}

// The factor that a reduction applies to each observation.
inline double share_of(Reduction reduction, int64_t observations) {
  return reduction == Reduction::kMean ? 1.0 / static_cast<double>(observations) : 1.0;
}

// Returns true if a call is computed in one launch, and sets the views of its loader.
template <class Density>
bool goes_together(const IWAELossCall& call, const Operand* gradients, View (&views)[kOperands]) {
  if constexpr (std::is_same<typename Density::Scalar, float>::value) {
    return observations_of(call) >= kManyObservations && call.shape.sizes[0] <= kMostSamplesABlock &&
           fits<Density, ForwardLoader>(call, gradients, views);
  }
  return false;
}

template <class Density>
void iwae_loss_together(const IWAELossCall& call, const View* views, const Operand* gradients, unsigned wanted,
                        const Coefficients& coefficients, const LossOutputs& out) {
  if constexpr (std::is_same<typename Density::Scalar, float>::value) {
    const Operand weights = contiguous(call.log_prob, DType::kFloat32, call.shape, call.shape.dims - 1);
    Operands operands;
    set_operands(operands, call, call.log_ratio, weights, gradients);
    Rows rows = plan_rows<Density, ForwardLoader>(call, leading_axes(call.shape), operands, 0);
    rows.take(views);
    launch(iwae_loss_kernel<Density>, observations_of(call), call.shape.sizes[0] * int64_t{sizeof(float)},
           call.cuda_stream, rows, coefficients, out, wanted);
  }
}

template <class Density>
void iwae_loss(const IWAELossCall& call) {
  using T = typename Density::Scalar;
  const int64_t observations = observations_of(call);
  DensityBackwardCall kept;
  static_cast<DensityCall&>(kept) = call;
  unsigned wanted = 0;
  for (int p = 0; p < Density::kParameters; ++p) {
    if (call.kept[p] == nullptr) continue;
    kept.gradients[p] = contiguous(call.kept[p], accumulation(call), call.shape, call.shape.dims);
    wanted |= 1u << p;
  }
  View views[kOperands];
  const bool together = goes_together<Density>(call, kept.gradients, views);
  const int64_t parts = together ? observations : ceil_divide(observations, kWarp);  // of a reduced loss, one per block
  Coefficients coefficients;
  coefficients.share = share_of(call.reduction, observations);
  LossOutputs out;
  out.bound = call.bound;
  out.share = coefficients.share;
  const bool in_parts = call.reduction != Reduction::kNone && (together || parts != 1);
  if (call.reduction == Reduction::kNone) {
    out.losses = call.loss;
  } else if (in_parts) {
    out.reduced = static_cast<double*>(call.allocate(call.allocator, parts * int64_t{sizeof(double)}));
  } else {
    out.loss = call.loss;
  }
  if (together) {
    iwae_loss_together<Density>(call, views, kept.gradients, wanted, coefficients, out);
  } else {
    log_prob<Density>(call, call.log_ratio, call.log_prob);
    launch(weights_kernel<T>, parts, 0, call.cuda_stream, static_cast<T*>(call.log_prob), call.shape.sizes[0],
           observations, out);
  }
  if (in_parts) {
    launch(loss_kernel<T>, 1, 0, call.cuda_stream, out.reduced, parts, coefficients.share, static_cast<T*>(call.loss));
  }
  if (together || wanted == 0) return;
  coefficients.weights = static_cast<const char*>(call.log_prob);
  density_backward<Density>(kept, coefficients);
}

template <class Density>
void iwae_loss_backward(const IWAELossBackwardCall& call) {
  DensityBackwardCall density;
  static_cast<DensityCall&>(density) = call;
  density.grad = call.grad;
  for (int p = 0; p < kMaxParameters; ++p) density.gradients[p] = call.gradients[p];
  Coefficients coefficients;
  coefficients.weights = static_cast<const char*>(call.weights);
  coefficients.written = static_cast<char*>(call.grad_log_ratio);
  coefficients.share = share_of(call.reduction, observations_of(call));
  density_backward<Density>(density, coefficients);
}

}  // namespace IWAE_ISA
}  // namespace iwae
