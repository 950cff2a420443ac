// What every density over the last axis shares: rows, tiles, sums, and gradients summed over broadcast axes.
//
// A `Density` (gaussian_log_prob.h and its siblings) gives
//   kParameters             how many tensors it takes
//   neutral(parameter)      what padding and masked entries are replaced by: they then add nothing
//   Sum                     a vector of sums over one tile: add(parameters)
//   Total                   the sum over a row: add(the four sums of a tile), value()
//   constant()              what each observed feature adds besides
//   gradients(parameters)   d log p / d each parameter, for one vector
#pragma once

#include "../math/gaussian.h"
#include "calls.h"
#include "rows.h"
#include "simd.h"
#include "staging.h"

namespace iwae {
namespace IWAE_ISA {

// Operands of a call that a walk keeps offsets of: the parameters, the mask, and one or more with the leading axes only.
constexpr int kMaskOffset = kMaxParameters, kLeadingOffset = kMaxParameters + 1, kGradientOffset = kMaxParameters + 2;

using DensityWalk = Walk<kLeadingOffset + 1>;
using GradientWalk = Walk<kGradientOffset + kMaxParameters>;

static inline DensityWalk density_walk(const DensityCall& call, const Axes& axes, int64_t start,
                                       const Operand* leading = nullptr) {
  return {call.shape, axes, start,
          {&call.parameters[0], &call.parameters[1], &call.parameters[2], &call.mask, leading}};
}

static inline GradientWalk gradient_walk(const DensityBackwardCall& call, const Axes& axes, int64_t start) {
  return {call.shape, axes, start,
          {&call.parameters[0], &call.parameters[1], &call.parameters[2], &call.mask, &call.grad, &call.gradients[0],
           &call.gradients[1], &call.gradients[2]}};
}

// The tiles of one row of every parameter, and of its mask.
template <class Density>
struct RowTiles {
  using T = typename Density::Scalar;
  using S = Simd<T>;

  const DensityCall& call;

  Buffer<T> buffers[kMaxParameters];
  Buffer<T> observed;  // the mask as 1 and 0, where there is one
  Buffer<uint8_t> mask_buffer;
  const T* tiles[kMaxParameters] = {};
  const uint8_t* mask = nullptr;

  explicit RowTiles(const DensityCall& c) : call(c) {}

  // Makes features [begin, begin + count) present, of the row at these offsets: the parameters', then the mask's.
  template <class Offset>
  void load(const Offset& offset, int64_t begin, int count) {
    const int last = call.shape.dims - 1;
    if (call.mask) {
      const int64_t stride = call.mask.strides[last];
      mask = load_mask(call.mask, offset(kMaskOffset) + begin * stride, stride, count, mask_buffer);
    }
    for (int p = 0; p < Density::kParameters; ++p) {
      const int64_t stride = call.parameters[p].strides[last];
      tiles[p] = load_tile<T>(call.parameters[p], offset(p) + begin * stride, stride, count, mask,
                              Density::neutral(p), buffers[p]);
    }
    if (mask == nullptr) return;
    for (int i = 0; i < count; ++i) observed.data[i] = mask[i] ? T(1) : T(0);
    for (int i = count; i < round_up<T>(count); ++i) observed.data[i] = T(0);
  }

};

// The parameters of the vector of features that starts at `position` of the tiles.
template <class Density>
static inline typename Density::Parameters load_parameters(const typename Density::Scalar* const* tiles,
                                                           int position) {
  typename Density::Parameters parameters;
  for (int p = 0; p < Density::kParameters; ++p) {
    parameters.value[p] = Simd<typename Density::Scalar>::load(tiles[p] + position);
  }
  return parameters;
}

// How many of the features from `begin` make the next tile: whole vectors first, the rest by itself.
template <class T>
static inline int tile_size(int64_t begin, int64_t end) {
  const int64_t left = end - begin;
  if (left >= kTile) return kTile;
  constexpr int lanes = Simd<T>::kLanes;
  return static_cast<int>(left < lanes ? left : left - left % lanes);
}

// The log-density of the row at which the walk stands.
template <class Density>
static inline double row_log_prob(RowTiles<Density>& row, const DensityWalk& walk) {
  using T = typename Density::Scalar;
  constexpr int kLanes = Simd<T>::kLanes;
  constexpr int kUnroll = 4;  // independent sums hide the latency of additions, and shorten each
  const int64_t features = row.call.shape.sizes[row.call.shape.dims - 1];
  typename Density::Total total;
  int64_t observed = features;
  for (int64_t begin = 0; begin < features;) {
    const int count = tile_size<T>(begin, features);
    row.load([&](int operand) { return walk.offset(operand); }, begin, count);
    if (row.mask != nullptr) {
      for (int i = 0; i < count; ++i) observed -= row.mask[i] ? 0 : 1;
    }
    typename Density::Sum sums[kUnroll];
    const T* tiles[kMaxParameters];
    for (int p = 0; p < Density::kParameters; ++p) tiles[p] = row.tiles[p];
    const int padded = round_up<T>(count);
    int i = 0;
    for (; i + kUnroll * kLanes <= padded; i += kUnroll * kLanes) {
      for (int u = 0; u < kUnroll; ++u) sums[u].add(load_parameters<Density>(tiles, i + u * kLanes));
    }
    for (; i < padded; i += kLanes) sums[0].add(load_parameters<Density>(tiles, i));
    total.add(sums[0], sums[1], sums[2], sums[3]);
    begin += count;
  }
  return total.value() + Density::constant() * static_cast<double>(observed);
}

template <class Density>
static void density_forward(const DensityCall& call, void* log_prob) {
  using T = typename Density::Scalar;
  const Axes leading = axes_between(0, call.shape.dims - 1);
  const int64_t rows = leading.size(call.shape);
  T* out = static_cast<T*>(log_prob);
  parallel(rows, useful_threads(call.shape.count(), call.threads), [&](int64_t begin, int64_t end) {
    RowTiles<Density> row(call);
    DensityWalk walk = density_walk(call, leading, begin);
    for (int64_t r = begin; r < end; ++r, walk.next()) out[r] = static_cast<T>(row_log_prob(row, walk));
  });
}

// One pass over the data: the gradients summed over the axes `reduced`, and those that keep every axis.
struct GradientPass {
  Axes kept, reduced;
  unsigned wanted = 0;                      // bit p: parameter p has a gradient in this pass
  bool is_reduced[kMaxParameters] = {};
};

// Gradients of one tile of one row, times `scale`.
template <class Density, unsigned kWanted>
static void gradient_tile(const RowTiles<Density>& row, typename Density::Scalar scale, int padded,
                          typename Density::Scalar* const* out) {
  using T = typename Density::Scalar;
  using S = Simd<T>;
  // Copies: the compiler cannot know that stores to `out` leave the row's own pointers alone.
  const T* tiles[kMaxParameters];
  T* outputs[kMaxParameters];
  for (int p = 0; p < Density::kParameters; ++p) {
    tiles[p] = row.tiles[p];
    outputs[p] = out[p];
  }
  const T* observed = row.mask != nullptr ? row.observed.data : nullptr;
  for (int i = 0; i < padded; i += S::kLanes) {
    const typename S::Value factor = S::all(scale);
    const typename Density::Parameters gradients = Density::gradients(load_parameters<Density>(tiles, i));
    for (int p = 0; p < Density::kParameters; ++p) {
      if (!(kWanted >> p & 1)) continue;
      typename S::Value value = factor * gradients.value[p];
      // Chosen, not multiplied: a scale of NaN must not reach a masked feature.
      if (observed != nullptr) value = S::zero_where_zero(S::load(observed + i), value);
      S::store(outputs[p] + i, value);
    }
  }
}

// Picks the instance for the wanted gradients, so that none but those are computed.
template <class Density, unsigned kWanted = 1>
static inline void gradient_tile(unsigned wanted, const RowTiles<Density>& row, typename Density::Scalar scale,
                                 int padded, typename Density::Scalar* const* out) {
  if (wanted == kWanted) return gradient_tile<Density, kWanted>(row, scale, padded, out);
  if constexpr (kWanted + 1 < (1u << Density::kParameters)) {
    gradient_tile<Density, kWanted + 1>(wanted, row, scale, padded, out);
  }
}

// Where the gradients of one tile are made: a row's, and their sum over rows in double, since a running float32 sum
// over thousands of rows would lose digits.
template <class T>
struct GradientTile {
  Buffer<T> row;
  Buffer<double> sum;
};

// Features [begin, begin + count) of one kept row: every reduced row in turn, always in the same order.
template <class Density>
static void gradient_rows(const DensityBackwardCall& call, const GradientPass& pass, const GradientWalk& kept,
                          GradientWalk& inner, RowTiles<Density>& row,
                          GradientTile<typename Density::Scalar>* made, int64_t begin, int count) {
  using T = typename Density::Scalar;
  const int padded = round_up<T>(count);
  const int64_t reduced_rows = pass.reduced.size(call.shape);
  const auto offset = [&](int operand) { return kept.offset(operand) + inner.offset(operand); };
  for (int p = 0; p < Density::kParameters; ++p) {
    if (pass.is_reduced[p]) std::memset(made[p].sum.data, 0, sizeof(double) * padded);
  }
  for (int64_t r = 0; r < reduced_rows; ++r, inner.next()) {
    T* out[kMaxParameters] = {};
    for (int p = 0; p < Density::kParameters; ++p) {
      if (!(pass.wanted >> p & 1)) continue;
      out[p] = pass.is_reduced[p]
                   ? made[p].row.data
                   : output_tile<T>(call.gradients[p], offset(kGradientOffset + p) + begin, count, made[p].row);
    }
    const T scale = load_one<T>(call.grad, offset(kLeadingOffset));
    if (scale != T(0)) {
      row.load(offset, begin, count);
      gradient_tile<Density>(pass.wanted, row, scale, padded, out);
    } else {  // a coefficient of zero gives zero, also where the gradient overflows: 0 * inf would be NaN
      for (int p = 0; p < Density::kParameters; ++p) {
        if (out[p] != nullptr) std::memset(out[p], 0, sizeof(T) * padded);
      }
    }
    for (int p = 0; p < Density::kParameters; ++p) {
      if (out[p] == nullptr) continue;
      if (pass.is_reduced[p]) {
        for (int i = 0; i < padded; ++i) made[p].sum.data[i] += made[p].row.data[i];
      } else {
        store_tile<T>(call.gradients[p], offset(kGradientOffset + p) + begin, count, out[p]);
      }
    }
  }
  for (int p = 0; p < Density::kParameters; ++p) {
    if (!pass.is_reduced[p]) continue;
    for (int i = 0; i < padded; ++i) made[p].row.data[i] = static_cast<T>(made[p].sum.data[i]);
    store_tile<T>(call.gradients[p], kept.offset(kGradientOffset + p) + begin, count, made[p].row.data);
  }
}

template <class Density>
static void run_gradient_pass(const DensityBackwardCall& call, const GradientPass& pass) {
  using T = typename Density::Scalar;
  const int64_t features = call.shape.sizes[call.shape.dims - 1], kept_rows = pass.kept.size(call.shape);
  // No sum runs over features, so where few rows are kept their features are shared out among the threads too.
  constexpr int64_t kFewRows = 64, kBlock = 64;
  const int64_t block = kept_rows < kFewRows || features == 0 ? kBlock : features;
  const int64_t blocks = (features + block - 1) / block;
  parallel(kept_rows * blocks, useful_threads(call.shape.count(), call.threads), [&](int64_t begin, int64_t end) {
    RowTiles<Density> row(call);
    GradientTile<T> made[kMaxParameters];
    GradientWalk kept = gradient_walk(call, pass.kept, begin / blocks);
    GradientWalk inner = gradient_walk(call, pass.reduced, 0);  // comes back to its start after every use
    for (int64_t item = begin; item < end; ++item) {
      if (item > begin && item % blocks == 0) kept.next();
      const int64_t first = item % blocks * block, stop = first + block < features ? first + block : features;
      for (int64_t d = first; d < stop;) {
        const int count = tile_size<T>(d, stop);
        gradient_rows(call, pass, kept, inner, row, made, d, count);
        d += count;
      }
    }
  });
}

// The leading axes along which a gradient is summed, as bits: those along which its tensor is broadcast.
static inline unsigned broadcast_axes(const Shape& shape, const Operand& operand) {
  unsigned axes = 0;
  for (int axis = 0; axis < shape.dims - 1; ++axis) {
    if (operand.strides[axis] == 0 && shape.sizes[axis] != 1) axes |= 1u << axis;
  }
  return axes;
}

// One pass for each distinct set of summed axes; gradients that sum over none ride along with the first.
template <class Density>
static void density_backward(const DensityBackwardCall& call) {
  unsigned waiting = 0, everywhere = 0, axes[kMaxParameters] = {};
  for (int p = 0; p < Density::kParameters; ++p) {
    if (!call.gradients[p]) continue;
    axes[p] = broadcast_axes(call.shape, call.gradients[p]);
    (axes[p] == 0 ? everywhere : waiting) |= 1u << p;
  }
  while (waiting | everywhere) {
    GradientPass pass;
    unsigned summed = 0;
    for (int p = 0; p < Density::kParameters; ++p) {
      if (!(waiting >> p & 1) || (summed != 0 && axes[p] != summed)) continue;
      summed = axes[p];
      pass.wanted |= 1u << p;
      pass.is_reduced[p] = true;
    }
    waiting &= ~pass.wanted;
    pass.wanted |= everywhere;
    everywhere = 0;
    for (int axis = 0; axis < call.shape.dims - 1; ++axis) (summed >> axis & 1 ? pass.reduced : pass.kept).add(axis);
    run_gradient_pass<Density>(call, pass);
  }
}

}  // namespace IWAE_ISA
}  // namespace iwae
