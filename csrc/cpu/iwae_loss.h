// The fused losses: log-weights from likelihood and log-ratio, the bound from log-weights, and all gradients in one
// pass, which may be the forward pass.
#pragma once

#include "density.h"
#include "log_mean_exp.h"

namespace iwae {
namespace IWAE_ISA {

// An operand for a contiguous tensor with the first `dims` axes of `shape`.
template <class T>
static Operand contiguous(void* data, const Shape& shape, int dims) {
  Operand operand;
  operand.data = static_cast<char*>(data);
  operand.dtype = dtype_of<T>();
  int64_t stride = 1;
  for (int axis = dims - 1; axis >= 0; --axis) {
    operand.strides[axis] = stride;
    stride *= shape.sizes[axis];
  }
  return operand;
}

// The negated bounds, or their mean or sum; the mean over no observations is NaN, as in torch.
template <class T>
static void reduce_loss(const double* bounds, int64_t observations, Reduction reduction, T* loss) {
  if (reduction == Reduction::kNone) {
    for (int64_t b = 0; b < observations; ++b) loss[b] = static_cast<T>(-bounds[b]);
    return;
  }
  double total = 0.0;
  for (int64_t b = 0; b < observations; ++b) total -= bounds[b];
  *loss = static_cast<T>(reduction == Reduction::kMean ? total / static_cast<double>(observations) : total);
}

// The log-weights of the rows, and the gradients of the likelihood if they are requested.
template <class Density, unsigned kWanted>
static void log_weights_of_rows(const IWAELossCall& call, int64_t begin, int64_t end) {
  using T = typename Density::Scalar;
  T* log_weights = static_cast<T*>(call.log_prob);
  RowTiles<Density> row(call);
  KeptRows<Density, kWanted> kept(call);
  DensityWalk walk = density_walk(call, axes_between(0, call.shape.dims - 1), begin, &call.log_ratio);
  for (int64_t r = begin; r < end; ++r, walk.next()) {
    const double log_ratio = load_one<T>(call.log_ratio, walk.offset(kLeadingOffset));
    log_weights[r] = static_cast<T>(row_log_prob(row, walk, kept, r) + log_ratio);
  }
}

// The factor that a reduction applies to each observation's gradient.
template <class T>
static T share_of(Reduction reduction, int64_t observations) {
  return reduction == Reduction::kMean ? T(1) / static_cast<T>(observations) : T(1);
}

template <class Density>
static void iwae_loss_forward(const IWAELossCall& call) {
  using T = typename Density::Scalar;
  const int64_t rows = axes_between(0, call.shape.dims - 1).size(call.shape);
  const int threads = useful_threads(call.shape.count(), call.threads);
  const unsigned wanted = wanted_gradients(call);
  with_wanted<Density>(wanted, [&](auto kept) {
    parallel(rows, threads,
             [&](int64_t begin, int64_t end) { log_weights_of_rows<Density, kept()>(call, begin, end); });
  });
  // Replaces the log-weights by the normalized weights, which are all that the backward pass needs.
  T* weights = static_cast<T*>(call.log_prob);
  Shape shape = call.shape;
  shape.dims -= 1;
  const Operand log_weights = contiguous<T>(weights, shape, shape.dims);
  const int64_t observations = axes_between(1, shape.dims).size(shape);
  double* bounds = new double[observations];  // not std::vector: its functions would be shared by instruction sets
  for_columns<T>(shape, log_weights, call.threads, [&](Columns<T>& columns, int64_t index, int64_t, int64_t) {
    for (int c = 0; c < columns.count; ++c) bounds[index + c] = columns.log_mean(c);
    for (int64_t i = 0; i < columns.samples; ++i) {
      const typename Simd<T>::Value weight = columns.weight(i);
      for (int c = 0; c < columns.count; ++c) {
        weights[i * observations + index + c] = static_cast<T>(weight[c] * columns.normalizer(c));
      }
    }
  });
  reduce_loss(bounds, observations, call.reduction, static_cast<T*>(call.loss));
  if (T* bound = static_cast<T*>(call.bound)) {
    for (int64_t b = 0; b < observations; ++b) bound[b] = static_cast<T>(bounds[b]);
  }
  delete[] bounds;
  if (wanted == 0) return;
  const T share = share_of<T>(call.reduction, observations);
  with_wanted<Density>(wanted, [&](auto kept) {
    parallel(rows, threads, [&](int64_t begin, int64_t end) {
      KeptRows<Density, kept()> gradients(call);
      for (int64_t r = end - 1; r >= begin; --r) gradients.scale(r, -share * weights[r]);  // last first: it is cached
    });
  });
}

// The gradient of the log-weights is -grad * weight, divided by the number of observations for a mean. It is also the
// gradient of the log-ratio, and scales those of the likelihood.
template <class Density>
static void iwae_loss_gradient(const IWAELossBackwardCall& call) {
  using T = typename Density::Scalar;
  const int leading_dims = call.shape.dims - 1;
  const Axes observation = axes_between(1, leading_dims);
  const int64_t samples = call.shape.sizes[0], observations = observation.size(call.shape);
  const T share = share_of<T>(call.reduction, observations);
  const T* weights = static_cast<const T*>(call.weights);
  T* grad_log_ratio = static_cast<T*>(call.grad_log_ratio);
  Walk<1> walk(call.shape, observation, 0, {&call.grad});
  for (int64_t b = 0; b < observations; ++b, walk.next()) {
    const T scale = -share * load_one<T>(call.grad, walk.offset(0));
    for (int64_t i = 0; i < samples; ++i) {
      const T weight = weights[i * observations + b];
      grad_log_ratio[i * observations + b] = weight == T(0) || scale == T(0) ? T(0) : scale * weight;
    }
  }
  DensityBackwardCall density;
  static_cast<DensityCall&>(density) = call;
  density.grad = contiguous<T>(call.grad_log_ratio, call.shape, leading_dims);
  for (int p = 0; p < kMaxParameters; ++p) density.gradients[p] = call.gradients[p];
  density_backward<Density>(density);
}

}  // namespace IWAE_ISA
}  // namespace iwae
