// logsumexp over the first axis minus log k, the normalized weights, and its gradient.
//
// A vector holds neighboring columns (observations), so no sum runs across lanes. Sums are in double: at k = 5000 a
// running float32 sum would lose digits.
#pragma once

#include <cmath>

#include "../calls.h"
#include "rows.h"
#include "simd.h"
#include "staging.h"

namespace iwae {
namespace IWAE_ISA {

// Up to one vector of neighboring columns of log-weights (k, ...).
template <class T>
struct Columns {
  using S = Simd<T>;

  const Operand& operand;
  int64_t offset, column_stride, sample_stride, samples;
  int count;
  Buffer<T>& buffer;
  T power;

  typename S::Value shift;  // the largest log-weight, 0 where that is infinite or NaN
  typename S::Wide total;   // sum of exp(power (log_weight - shift))

  typename S::Value load(int64_t sample) {
    return S::load(load_tile<T>(operand, offset + sample * sample_stride, column_stride, count, nullptr, T(0), buffer));
  }

  // exp(power (log_weight - shift)); all -inf gives 0, NaN stays NaN.
  typename S::Value weight(int64_t sample) { return S::exp((load(sample) - shift) * power); }

  void sum() {
    typename S::Value largest = load(0);
    for (int64_t i = 1; i < samples; ++i) largest = S::max(load(i), largest);
    for (int lane = 0; lane < S::kLanes; ++lane) shift[lane] = std::isfinite(largest[lane]) ? largest[lane] : T(0);
    total = typename S::Wide{};
    for (int64_t i = 0; i < samples; ++i) total += S::widen(weight(i));
  }

  double log_mean(int lane) const {
    return std::log(total[lane]) + static_cast<double>(shift[lane]) - std::log(static_cast<double>(samples));
  }

  // The factor that normalizes the weights; 0 where all weights are 0.
  double normalizer(int lane) const { return total[lane] == 0.0 ? 0.0 : 1.0 / total[lane]; }
};

// Calls body(columns, index, row, first): `index` counts the columns of (...) in memory order; `first` is the first
// column within row number `row` of (...). `power` > 0 is that of the weights.
template <class T, class Body>
static void for_columns(const Shape& shape, const Operand& log_weights, int threads, const Body& body,
                        T power = T(1)) {
  const int last = shape.dims - 1;
  // Log-weights of shape (k,) are one column, read with stride 0.
  const int64_t width = last > 0 ? shape.sizes[last] : 1;
  const int64_t column_stride = last > 0 ? log_weights.strides[last] : 0;
  const Axes rows = axes_between(1, last);
  const int64_t blocks = (width + Simd<T>::kLanes - 1) / Simd<T>::kLanes;
  parallel(rows.size(shape) * blocks, useful_threads(shape.count(), threads), [&](int64_t begin, int64_t end) {
    Buffer<T> buffer;
    for (int64_t item = begin; item < end; ++item) {
      const Walk<1> walk(shape, rows, item / blocks, {&log_weights});
      const int64_t first = item % blocks * Simd<T>::kLanes, left = width - first;
      Columns<T> columns{log_weights,
                         walk.offset(0) + first * column_stride,
                         column_stride,
                         log_weights.strides[0],
                         shape.sizes[0],
                         static_cast<int>(left < Simd<T>::kLanes ? left : Simd<T>::kLanes),
                         buffer,
                         power,
                         {},
                         {}};
      columns.sum();
      body(columns, item / blocks * width + first, item / blocks, first);
    }
  });
}

template <class T>
static void log_mean_exp_forward(const LogMeanExpCall& call) {
  T* bound = static_cast<T*>(call.bound);
  for_columns<T>(call.shape, call.log_weights, call.threads,
                 [&](Columns<T>& columns, int64_t index, int64_t, int64_t) {
                   for (int c = 0; c < columns.count; ++c) bound[index + c] = static_cast<T>(columns.log_mean(c));
                 });
}

template <class T>
static void log_mean_exp_gradient(const LogMeanExpBackwardCall& call) {
  using S = Simd<T>;
  const int last = call.shape.dims - 1;
  const Axes rows = axes_between(1, last);
  for_columns<T>(call.shape, call.log_weights, call.threads,
                 [&](Columns<T>& columns, int64_t, int64_t row, int64_t first) {
                   const Walk<2> walk(call.shape, rows, row, {&call.grad, &call.gradient});
                   typename S::Value scale = S::zero(), incoming = S::zero();
                   for (int c = 0; c < columns.count; ++c) {
                     const int64_t stride = last > 0 ? call.grad.strides[last] : 0;
                     const T grad = load_one<T>(call.grad, walk.offset(0) + (first + c) * stride);
                     const double normalizer = columns.normalizer(c);
                     incoming[c] = grad;
                     scale[c] = normalizer == 0.0 ? T(0) : static_cast<T>(grad * normalizer);
                   }
                   const int64_t stride = last > 0 ? call.gradient.strides[last] : 0;
                   const int64_t offset = walk.offset(1) + first * stride;
                   for (int64_t i = 0; i < columns.samples; ++i) {
                     // A coefficient of zero gives zero even in a column with NaN.
                     const typename S::Value gradient = S::zero_where_zero(incoming, scale * columns.weight(i));
                     for (int c = 0; c < columns.count; ++c) {
                       const T one = gradient[c];
                       store_tile<T>(call.gradient, offset + i * call.gradient.strides[0] + c * stride, 1, &one);
                     }
                   }
                 });
}

}  // namespace IWAE_ISA
}  // namespace iwae
