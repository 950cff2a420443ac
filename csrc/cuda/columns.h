// Columns of log-weights: a block processes kWarp neighboring columns, and its warps divide the samples. Three passes
// compute the maximum, the sum, and the results from the weights; the second and third read from the caches.
#pragma once

#include "../calls.h"
#include "load.h"
#include "math.h"
#include "walk.h"

namespace iwae {
namespace IWAE_ISA {

constexpr int kSampleLanes = kThreads / kWarp;

// The shift of a column: its largest log-weight, 0 where that is infinite or NaN.
template <class T>
__device__ __forceinline__ T finite(T x) {
  return x - x == T(0) ? x : T(0);
}

// The factor that normalizes the weights; 0 where all weights are 0.
__device__ __forceinline__ double normalizer(double total) { return total == 0.0 ? 0.0 : 1.0 / total; }

__device__ __forceinline__ double log_mean(double shift, double total, int64_t samples) {
  return log(total) + shift - log(static_cast<double>(samples));
}

// exp(log_weight - shift), <= 1: all -inf gives 0, NaN stays NaN.
template <class T>
__device__ __forceinline__ T weight_of(T log_weight, T shift) {
  return Math<T>::exp_nonpositive(log_weight - shift);
}

// The column of a thread.
template <class T>
struct Column {
  const View& log_weights;
  int64_t offset, sample_stride, samples;
  int sample_lane;
  T shift;
  double total;  // sum of the weights

  __device__ __forceinline__ T load(int64_t sample) const {
    return load_one<T>(log_weights.data, log_weights.dtype, offset + sample * sample_stride);
  }
  __device__ __forceinline__ T weight(int64_t sample) const { return weight_of(load(sample), shift); }

  // All threads of the block take part; a thread that is not `present` reads nothing.
  __device__ __forceinline__ Column(const View& view, int64_t at, int64_t stride, int64_t count, bool present)
      : log_weights(view), offset(at), sample_stride(stride), samples(present ? count : 0),
        sample_lane(threadIdx.x / kWarp) {
    __shared__ T largest_of[kSampleLanes][kWarp];
    __shared__ double total_of[kSampleLanes][kWarp];
    const int lane = threadIdx.x % kWarp;
    T largest = -T(INFINITY);
    for (int64_t i = sample_lane; i < samples; i += kSampleLanes) {
      const T log_weight = load(i);
      largest = log_weight > largest ? log_weight : largest;  // NaN is ignored here and propagates through the sum
    }
    largest_of[sample_lane][lane] = largest;
    __syncthreads();
    for (int other = 0; other < kSampleLanes; ++other) {
      largest = largest_of[other][lane] > largest ? largest_of[other][lane] : largest;
    }
    shift = finite(largest);
    double sum = 0.0;
    for (int64_t i = sample_lane; i < samples; i += kSampleLanes) sum += static_cast<double>(weight(i));
    total_of[sample_lane][lane] = sum;
    __syncthreads();
    total = 0.0;
    for (int other = 0; other < kSampleLanes; ++other) total += total_of[other][lane];
  }

  __device__ __forceinline__ double bound() const { return log_mean(static_cast<double>(shift), total, samples); }
};

// The offsets of the columns (...) of log-weights (k, ...) and of the operands that go with them.
template <int kOperands_>
struct Columns {
  Walk<kOperands_> walk;
  View log_weights;
  int64_t sample_stride = 0, samples = 0;

  int64_t count() const { return walk.outer_count; }
  int64_t blocks() const { return ceil_divide(count(), kWarp); }

  // The offsets of the column of this thread.
  __device__ __forceinline__ int64_t index() const {
    return static_cast<int64_t>(blockIdx.x) * kWarp + threadIdx.x % kWarp;
  }
};

// The first operand is the log-weights.
template <int kOperands_>
Columns<kOperands_> columns_of(const Shape& shape, const Operand* const (&operands)[kOperands_]) {
  Columns<kOperands_> columns;
  const unsigned all = (1u << shape.dims) - 1;
  columns.walk = walk_over(shape, all & ~1u, operands, 0, kNone);
  columns.log_weights = view_of(*operands[0], 0);
  columns.sample_stride = operands[0]->strides[0];
  columns.samples = shape.sizes[0];
  return columns;
}

}  // namespace IWAE_ISA
}  // namespace iwae
