// Columns of log-weights (k, columns): their largest log-weight, the sum of their weights, and what follows from both.
//
// The threads of a block are divided among columns, of which neighboring lanes take neighboring ones, and samples. A
// thread holds kHeld samples in registers, of one column or of 4 at a time (16 bytes): their loads are under way
// together, and a column that fits is read only once. Few columns with many samples are divided among blocks along the
// samples too: a first launch computes the totals of each part, and the next one merges them, always in the same order.
#pragma once

#include "../calls.h"
#include "load.h"
#include "math.h"
#include "walk.h"

namespace iwae {
namespace IWAE_ISA {

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

// The largest of some log-weights of a column, NaN ignored, and the sum of their weights relative to its finite().
template <class T>
struct Total {
  T largest = -T(INFINITY);
  double sum = 0.0;

  // The sum relative to another shift, which is at least as large unless it belongs to an infinite weight.
  __device__ __forceinline__ double relative_to(T shift) const {
    const T own = finite(largest);
    return own == largest && own != shift ? sum * exp(static_cast<double>(own) - static_cast<double>(shift)) : sum;
  }
  __device__ __forceinline__ void add(const Total& other) {
    const T most = other.largest > largest ? other.largest : largest;
    sum = relative_to(finite(most)) + other.relative_to(finite(most));
    largest = most;
  }
};

// Totals of the parts of columns, (splits, columns) each; null if columns are not divided.
template <class T>
struct Parts {
  T* largest = nullptr;
  double* sum = nullptr;

  __device__ __forceinline__ Total<T> merged(int64_t column, int64_t columns, int64_t splits) const {
    Total<T> total;
    for (int64_t split = 0; split < splits; ++split) {
      const int64_t at = split * columns + column;
      total.add({largest[at], sum[at]});
    }
    return total;
  }
};

template <int kOperands_>
struct Columns {
  Walk<kOperands_> walk;  // of the columns
  View log_weights;
  int64_t sample_stride = 0, samples = 0;
  double power = 1.0;  // by which log-weights are multiplied
  bool wide = false;  // 4 columns per thread
  int lanes_log2 = 0;  // lanes of a block along the columns; the others are along the samples
  int64_t splits = 1, samples_a_split = 0;

  int64_t count() const { return walk.outer_count; }
  // Blocks along the columns, and all.
  int64_t column_blocks() const { return ceil_divide(count(), int64_t{wide ? 4 : 1} << lanes_log2); }
  int64_t blocks() const { return column_blocks() * splits; }
};

// The columns and samples of a thread.
template <int kWide>
struct Spot {
  int lane, sample_lane, sample_lanes;
  int64_t block, split, column, first, end;  // `column` is the first of kWide

  template <int kOperands_>
  __device__ __forceinline__ explicit Spot(const Columns<kOperands_>& columns)
      : lane(static_cast<int>(threadIdx.x) & ((1 << columns.lanes_log2) - 1)),
        sample_lane(static_cast<int>(threadIdx.x) >> columns.lanes_log2),
        sample_lanes(kThreads >> columns.lanes_log2),
        block(blockIdx.x / columns.splits),
        split(blockIdx.x - block * columns.splits) {
    column = ((block << columns.lanes_log2) + lane) * kWide;
    const bool present = column < columns.walk.outer_count;
    if (!present) column = 0;
    first = present ? split * columns.samples_a_split : 0;
    end = present ? first + columns.samples_a_split : 0;
    if (end > columns.samples) end = columns.samples;
  }
  __device__ __forceinline__ bool present() const { return end > 0; }
};

// The log-weights that a thread holds: kHeld samples of its columns, one in sample_lanes.
template <class T, int kWide>
struct Held {
  T value[kHeld][kWide];
  int64_t offset, stride;
  T power;

  template <int kOperands_>
  __device__ __forceinline__ Held(const Columns<kOperands_>& columns, const Spot<kWide>& spot)
      : power(static_cast<T>(columns.power)) {
    int64_t offsets[kOperands_];
    columns.walk.offsets(spot.column, offsets);
    offset = offsets[0];
    stride = columns.sample_stride;
  }

  // Loads the samples from `sample` on; -inf, the logarithm of no weight, where there are none.
  __device__ __forceinline__ void load(const View& view, const Spot<kWide>& spot, int64_t sample) {
#pragma unroll
    for (int h = 0; h < kHeld; ++h, sample += spot.sample_lanes) {
      if (sample >= spot.end) {
#pragma unroll
        for (int w = 0; w < kWide; ++w) value[h][w] = -T(INFINITY);
        continue;
      }
      if constexpr (kWide == 1) {
        value[h][0] = load_one<T>(view.data, view.dtype, offset + sample * stride);
      } else {
        const T* from = reinterpret_cast<const T*>(view.data) + offset + sample * stride;
        const Sixteen raw = *aligned_to_16(reinterpret_cast<const Sixteen*>(from));
        memcpy(value[h], &raw, sizeof raw);
      }
#pragma unroll
      for (int w = 0; w < kWide; ++w) value[h][w] = Math<T>::rounded_product(value[h][w], power);
    }
  }
};

// The totals of a thread's columns over the samples of its block, which all threads of the block must ask for.
template <class T, int kWide, int kOperands_>
__device__ __forceinline__ void total_over_block(const Columns<kOperands_>& columns, const Spot<kWide>& spot,
                                                 Held<T, kWide>& held, Total<T> (&total)[kWide]) {
  __shared__ T largest_of[kThreads][kWide];
  __shared__ double sum_of[kThreads][kWide];
  for (int64_t sample = spot.first + spot.sample_lane; sample < spot.end; sample += spot.sample_lanes * kHeld) {
    held.load(columns.log_weights, spot, sample);
#pragma unroll
    for (int w = 0; w < kWide; ++w) {
      Total<T> added;
#pragma unroll
      for (int h = 0; h < kHeld; ++h) {
        // NaN is ignored here and propagates through the sum.
        added.largest = held.value[h][w] > added.largest ? held.value[h][w] : added.largest;
      }
      const T shift = finite(added.largest);
      T sum = T(0);  // of few terms, so that one conversion to double serves all
#pragma unroll
      for (int h = 0; h < kHeld; ++h) sum += weight_of(held.value[h][w], shift);
      added.sum = static_cast<double>(sum);
      total[w].add(added);
    }
  }
#pragma unroll
  for (int w = 0; w < kWide; ++w) {
    largest_of[threadIdx.x][w] = total[w].largest;
    sum_of[threadIdx.x][w] = total[w].sum;
  }
  for (int half = spot.sample_lanes / 2; half > 0; half /= 2) {
    __syncthreads();
    if (spot.sample_lane >= half) continue;
    const int other = threadIdx.x + (half << columns.lanes_log2);
#pragma unroll
    for (int w = 0; w < kWide; ++w) {
      total[w].add({largest_of[other][w], sum_of[other][w]});
      largest_of[threadIdx.x][w] = total[w].largest;
      sum_of[threadIdx.x][w] = total[w].sum;
    }
  }
  __syncthreads();
#pragma unroll
  for (int w = 0; w < kWide; ++w) total[w] = {largest_of[spot.lane][w], sum_of[spot.lane][w]};
}

// Calls use(sample, weights) for each sample of a thread, with its kWide weights relative to their shifts. Samples that
// are still held are not loaded again.
template <class T, int kWide, int kOperands_, class Use>
__device__ __forceinline__ void for_weights(const Columns<kOperands_>& columns, const Spot<kWide>& spot,
                                            Held<T, kWide>& held, bool is_held, const Total<T> (&total)[kWide],
                                            const Use& use) {
  for (int64_t first = spot.first + spot.sample_lane; first < spot.end; first += spot.sample_lanes * kHeld) {
    if (!is_held) held.load(columns.log_weights, spot, first);
    int64_t sample = first;
#pragma unroll
    for (int h = 0; h < kHeld; ++h, sample += spot.sample_lanes) {
      if (sample >= spot.end) break;
      T weights[kWide];
#pragma unroll
      for (int w = 0; w < kWide; ++w) weights[w] = weight_of(held.value[h][w], finite(total[w].largest));
      use(sample, weights);
    }
  }
}

// Stores the weights of a sample at an offset of an operand.
template <class T, int kWide>
__device__ __forceinline__ void store_weights(const View& view, int64_t offset, const T (&weights)[kWide]) {
  if constexpr (kWide == 1) {
    store_one(view.data, view.dtype, offset, weights[0]);
  } else {
    Sixteen raw;
    memcpy(&raw, weights, sizeof raw);
    *aligned_to_16(reinterpret_cast<Sixteen*>(reinterpret_cast<T*>(view.data) + offset)) = raw;
  }
}

// The totals of a thread's columns over all samples; returns true if its own samples are held.
template <class T, int kWide, int kOperands_>
__device__ __forceinline__ bool total_of(const Columns<kOperands_>& columns, const Spot<kWide>& spot,
                                         const Parts<T>& parts, Held<T, kWide>& held, Total<T> (&total)[kWide]) {
  if (columns.splits > 1) {
#pragma unroll
    for (int w = 0; w < kWide; ++w) total[w] = parts.merged(spot.column + w, columns.walk.outer_count, columns.splits);
    return false;
  }
  total_over_block(columns, spot, held, total);
  return columns.samples <= int64_t{kHeld} * spot.sample_lanes;
}

// The totals of each part of divided columns.
template <class T, int kWide, int kOperands_>
IWAE_KERNEL parts_kernel(const Columns<kOperands_> columns, const Parts<T> parts) {
  begin_kernel();
  const Spot<kWide> spot(columns);
  Held<T, kWide> held(columns, spot);
  Total<T> total[kWide];
  total_over_block(columns, spot, held, total);
  if (!spot.present() || spot.sample_lane != 0) return;
#pragma unroll
  for (int w = 0; w < kWide; ++w) {
    const int64_t at = spot.split * columns.walk.outer_count + spot.column + w;
    parts.largest[at] = total[w].largest;
    parts.sum[at] = total[w].sum;
  }
}

// Calls use(std::integral_constant<int, kWide>) for the number of columns per thread.
template <class T, int kOperands_, class Use>
void with_width(const Columns<kOperands_>& columns, const Use& use) {
  if constexpr (std::is_same<T, float>::value) {
    if (columns.wide) return use(std::integral_constant<int, 4>{});
  }
  use(std::integral_constant<int, 1>{});
}

// Computes the totals of the parts if the columns are divided.
template <class T, int kOperands_>
Parts<T> parts_of(const Columns<kOperands_>& columns, const Place& place) {
  Parts<T> parts;
  if (columns.splits == 1 || columns.count() == 0) return parts;
  const int64_t numbers = columns.splits * columns.count();
  parts.sum = static_cast<double*>(place.allocate(place.allocator, numbers * int64_t{sizeof(double)}));
  parts.largest = static_cast<T*>(place.allocate(place.allocator, numbers * int64_t{sizeof(T)}));
  with_width<T>(columns, [&](auto width) {
    launch(parts_kernel<T, decltype(width)::value, kOperands_>, columns.blocks(), 0, place.cuda_stream, columns, parts);
  });
  return parts;
}

// The first operand is the log-weights; those whose bit is set in `stored` have a value for each log-weight.
template <class T, int kOperands_>
Columns<kOperands_> columns_of(const Shape& shape, const Operand* const (&operands)[kOperands_], unsigned stored) {
  Columns<kOperands_> columns;
  const unsigned all = (1u << shape.dims) - 1;
  columns.walk = walk_over(shape, all & ~1u, operands, 0, kNone);
  columns.log_weights = view_of(*operands[0], 0);
  columns.sample_stride = operands[0]->strides[0];
  columns.samples = shape.sizes[0];
  const int64_t count = columns.count();
  columns.wide = std::is_same<T, float>::value && columns.walk.outer_dims == 1 && count % 4 == 0;
  for (int o = 0; o < kOperands_; ++o) {
    if (!(stored >> o & 1)) continue;
    columns.wide = columns.wide && operands[o]->dtype == DType::kFloat32 && columns.walk.outer_strides[0][o] == 1 &&
                   operands[o]->strides[0] % 4 == 0 && reinterpret_cast<uintptr_t>(operands[o]->data) % 16 == 0;
  }
  const int64_t groups = columns.wide ? count / 4 : count;
  while (columns.lanes_log2 < kWarpLog2 && (int64_t{1} << columns.lanes_log2) < groups) ++columns.lanes_log2;
  const int64_t together = int64_t{kHeld} * (kThreads >> columns.lanes_log2);
  const int64_t blocks = columns.column_blocks(), most = ceil_divide(columns.samples, together);
  if (blocks > 0 && blocks < kFewBlocks && most > 1) {
    columns.splits = ceil_divide(kFewBlocks, blocks) < most ? ceil_divide(kFewBlocks, blocks) : most;
  }
  columns.samples_a_split = ceil_divide(columns.samples, columns.splits);
  if (columns.samples_a_split > 0) columns.splits = ceil_divide(columns.samples, columns.samples_a_split);
  return columns;
}

}  // namespace IWAE_ISA
}  // namespace iwae
