// logsumexp over the first axis minus log k, and its gradient.
#pragma once

#include "columns.h"

namespace iwae {
namespace IWAE_ISA {

template <class T, int kWide>
IWAE_KERNEL log_mean_exp_kernel(const Columns<1> columns, T* bound) {
  begin_kernel();
  const Spot<kWide> spot(columns);
  Held<T, kWide> held(columns, spot);
  Total<T> total[kWide];
  total_over_block(columns, spot, held, total);
  if (!spot.present() || spot.sample_lane != 0) return;
#pragma unroll
  for (int w = 0; w < kWide; ++w) {
    bound[spot.column + w] = static_cast<T>(log_mean(finite(total[w].largest), total[w].sum, columns.samples));
  }
}

// For columns that are divided among blocks: one thread per column.
template <class T>
IWAE_KERNEL merged_log_mean_exp_kernel(const Parts<T> parts, const int64_t columns, const int64_t splits,
                                       const int64_t samples, T* bound) {
  begin_kernel();
  const int64_t column = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (column >= columns) return;
  const Total<T> total = parts.merged(column, columns, splits);
  bound[column] = static_cast<T>(log_mean(finite(total.largest), total.sum, samples));
}

// Writes (k, ...), whose strides may differ from those of the log-weights.
template <class T, int kWide>
IWAE_KERNEL log_mean_exp_gradient_kernel(const Columns<3> columns, const Parts<T> parts, const View grad,
                                         const View gradient, const int64_t gradient_sample_stride) {
  begin_kernel();
  const Spot<kWide> spot(columns);
  Held<T, kWide> held(columns, spot);
  Total<T> total[kWide];
  const bool is_held = total_of(columns, spot, parts, held, total);
  if (!spot.present()) return;
  int64_t offset[3];
  columns.walk.offsets(spot.column, offset);
  T scale[kWide];
  bool stopped[kWide];  // a coefficient of zero gives zero even in a column with NaN
#pragma unroll
  for (int w = 0; w < kWide; ++w) {
    const int64_t step = kWide == 1 ? 0 : w * columns.walk.outer_strides[0][1];
    const double incoming = load_one<double>(grad.data, grad.dtype, offset[1] + step);
    scale[w] = total[w].sum == 0.0 ? T(0) : static_cast<T>(incoming * normalizer(total[w].sum));
    stopped[w] = incoming == 0.0;
  }
  for_weights(columns, spot, held, is_held, total, [&](int64_t sample, T(&weights)[kWide]) {
#pragma unroll
    for (int w = 0; w < kWide; ++w) weights[w] = stopped[w] ? T(0) : scale[w] * weights[w];
    store_weights(gradient, offset[2] + sample * gradient_sample_stride, weights);
  });
}

template <class T>
void log_mean_exp(const LogMeanExpCall& call) {
  const Operand* operands[1] = {&call.log_weights};
  const Columns<1> columns = columns_of<T>(call.shape, operands, 1u);
  T* bound = static_cast<T*>(call.bound);
  if (columns.splits > 1) {
    const Parts<T> parts = parts_of<T>(columns, call);
    launch(merged_log_mean_exp_kernel<T>, ceil_divide(columns.count(), kThreads), 0, call.cuda_stream, parts,
           columns.count(), columns.splits, columns.samples, bound);
    return;
  }
  with_width<T>(columns, [&](auto width) {
    launch(log_mean_exp_kernel<T, decltype(width)::value>, columns.blocks(), 0, call.cuda_stream, columns, bound);
  });
}

template <class T>
void log_mean_exp_backward(const LogMeanExpBackwardCall& call) {
  const Operand* operands[3] = {&call.log_weights, &call.grad, &call.gradient};
  const Columns<3> columns = columns_of<T>(call.shape, operands, 0b101u);
  const Parts<T> parts = parts_of<T>(columns, call);
  with_width<T>(columns, [&](auto width) {
    launch(log_mean_exp_gradient_kernel<T, decltype(width)::value>, columns.blocks(), 0, call.cuda_stream, columns,
           parts, view_of(call.grad, 0), view_of(call.gradient, 0), call.gradient.strides[0]);
  });
}

}  // namespace IWAE_ISA
}  // namespace iwae
