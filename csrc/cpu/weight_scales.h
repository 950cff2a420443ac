// The value of a bound log[mean of w^power] / power, and the scales of an estimator's gradient, from the log-weights.
#pragma once

#include "../math/weight_scales.h"
#include "log_mean_exp.h"

namespace iwae {
namespace IWAE_ISA {

template <class T>
static void weight_scales(const WeightScalesCall& call) {
  using S = Simd<T>;
  const int last = call.shape.dims - 1;
  const Axes rows = axes_between(1, last);
  const ScaleFactors<T> by(call);
  T* value = static_cast<T*>(call.value);
  const Operand* const results[] = {&call.decoder, &call.encoder, &call.ratio};
  for_columns<T>(
      call.shape, call.log_weights, call.threads,
      [&](Columns<T>& columns, int64_t index, int64_t row, int64_t first) {
        const Walk<1> walk(call.shape, rows, row, {&call.decoder});
        typename S::Value normalizer = S::zero();
        for (int c = 0; c < columns.count; ++c) {
          const double mean = std::log(columns.total[c]) - std::log(static_cast<double>(columns.samples));
          value[index + c] = static_cast<T>(mean / call.power + static_cast<double>(columns.shift[c]));
          normalizer[c] = static_cast<T>(columns.normalizer(c));
        }
        const int64_t stride = last > 0 ? call.decoder.strides[last] : 0;
        const int64_t offset = walk.offset(0) + first * stride;
        for (int64_t i = 0; i < columns.samples; ++i) {
          const WeightScales<S> scales = weight_scales_of<S>(normalizer * columns.weight(i), by);
          const typename S::Value* const made[] = {&scales.decoder, &scales.encoder, &scales.ratio};
          for (int r = 0; r < 3; ++r) {
            T* to = reinterpret_cast<T*>(results[r]->data) + offset + i * call.decoder.strides[0];
            if (stride == 1) {
              store_some<T>(to, columns.count, *made[r]);
            } else {
              for (int c = 0; c < columns.count; ++c) to[c * stride] = (*made[r])[c];
            }
          }
        }
      },
      by.power);
}

}  // namespace IWAE_ISA
}  // namespace iwae
