// logsumexp over the first axis minus log k, and its gradient.
#pragma once

#include "columns.h"

namespace iwae {
namespace IWAE_ISA {

template <class T>
IWAE_KERNEL log_mean_exp_kernel(const Columns<1> columns, T* bound) {
  const int64_t index = columns.index();
  const bool present = index < columns.walk.outer_count;
  int64_t offset[1];
  columns.walk.offsets(present ? index : 0, offset);
  const Column<T> column(columns.log_weights, offset[0], columns.sample_stride, columns.samples, present);
  if (present && column.sample_lane == 0) bound[index] = static_cast<T>(column.bound());
}

// Writes (k, ...), whose strides may differ from those of the log-weights.
template <class T>
IWAE_KERNEL log_mean_exp_gradient_kernel(const Columns<3> columns, const View grad, const View gradient,
                                         const int64_t gradient_sample_stride) {
  const int64_t index = columns.index();
  const bool present = index < columns.walk.outer_count;
  int64_t offset[3];
  columns.walk.offsets(present ? index : 0, offset);
  const Column<T> column(columns.log_weights, offset[0], columns.sample_stride, columns.samples, present);
  if (!present) return;
  const double incoming = load_one<double>(grad.data, grad.dtype, offset[1]);
  const T scale = column.total == 0.0 ? T(0) : static_cast<T>(incoming * normalizer(column.total));
  for (int64_t i = column.sample_lane; i < column.samples; i += kSampleLanes) {
    // A coefficient of zero gives zero even in a column with NaN.
    const T one = incoming == 0.0 ? T(0) : scale * column.weight(i);
    store_one(gradient.data, gradient.dtype, offset[2] + i * gradient_sample_stride, one);
  }
}

template <class T>
void log_mean_exp(const LogMeanExpCall& call) {
  const Operand* operands[1] = {&call.log_weights};
  const Columns<1> columns = columns_of(call.shape, operands);
  launch(log_mean_exp_kernel<T>, columns.blocks(), 0, call.cuda_stream, columns, static_cast<T*>(call.bound));
}

template <class T>
void log_mean_exp_backward(const LogMeanExpBackwardCall& call) {
  const Operand* operands[3] = {&call.log_weights, &call.grad, &call.gradient};
  const Columns<3> columns = columns_of(call.shape, operands);
  launch(log_mean_exp_gradient_kernel<T>, columns.blocks(), 0, call.cuda_stream, columns, view_of(call.grad, 0),
         view_of(call.gradient, 0), call.gradient.strides[0]);
}

}  // namespace IWAE_ISA
}  // namespace iwae
