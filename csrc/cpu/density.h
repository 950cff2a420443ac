// Code shared by all densities (csrc/math/density.h) over the last axis: rows, tiles, sums, and gradients summed over
// broadcast axes. A `Density` computes with vectors: its Math is Simd.
#pragma once

#include <array>
#include <cmath>
#include <type_traits>

#include "../calls.h"
#include "rows.h"
#include "simd.h"
#include "staging.h"

namespace iwae {
namespace IWAE_ISA {

// The operands whose offsets a walk tracks: the parameters, the mask, and one or more with the leading axes only.
constexpr int kMaskOffset = kMaxParameters, kLeadingOffset = kMaxParameters + 1, kGradientOffset = kMaxParameters + 2;

using DensityWalk = Walk<kLeadingOffset + 1>;
using GradientWalk = Walk<kGradientOffset + kMaxParameters>;

static inline DensityWalk density_walk(const DensityCall& call, const Axes& axes, int64_t start,
                                       const Operand* leading = nullptr) {
  std::array<const Operand*, kLeadingOffset + 1> operands = {};
  for (int p = 0; p < kMaxParameters; ++p) operands[p] = &call.parameters[p];
  operands[kMaskOffset] = &call.mask;
  operands[kLeadingOffset] = leading;
  return {call.shape, axes, start, operands};
}

static inline GradientWalk gradient_walk(const DensityBackwardCall& call, const Axes& axes, int64_t start) {
  std::array<const Operand*, kGradientOffset + kMaxParameters> operands = {};
  for (int p = 0; p < kMaxParameters; ++p) {
    operands[p] = &call.parameters[p];
    operands[kGradientOffset + p] = &call.gradients[p];
  }
  operands[kMaskOffset] = &call.mask;
  operands[kLeadingOffset] = &call.grad;
  return {call.shape, axes, start, operands};
}

// The parameters of one vector of features, or a number for each of them.
template <class Density>
struct Parameters {
  typename Density::Value value[Density::kParameters];
};

// A vector of sums over one tile.
template <class Density>
struct Sum {
  using S = typename Density::Math;

  typename Density::Value linear = S::zero();
  // A tile has 992 factors of at most 2, so no product overflows: a lane of one of the four products has at most 62
  // factors, and the product of all fits into a double.
  typename Density::Value factors = S::one();

  void add(const Parameters<Density>& p) { Density::add(p.value, linear, factors); }
};

// The sum over a row. The logarithm is taken before the product of one more tile could overflow a double.
template <class Density>
struct Total {
  using S = typename Density::Math;

  double sum = Density::kScale * 0.0, product = 1.0;

  void add(const Sum<Density>& a, const Sum<Density>& b, const Sum<Density>& c, const Sum<Density>& d) {
    sum += Density::kScale *
           S::sum((S::widen(a.linear) + S::widen(b.linear)) + (S::widen(c.linear) + S::widen(d.linear)));
    if constexpr (Density::kHasFactors) {
      if (product > 0x1p30) {
        sum -= std::log(product);
        product = 1.0;
      }
      product *= S::product((S::widen(a.factors) * S::widen(b.factors)) * (S::widen(c.factors) * S::widen(d.factors)));
    }
  }
  double value() const {
    return Density::kHasFactors ? sum - std::log(product) : sum;
  }
};

// The tiles of one row of every parameter, and of its mask.
template <class Density>
struct RowTiles {
  using T = typename Density::Scalar;
  using S = Simd<T>;

  const DensityCall& call;

  Buffer<T> buffers[kMaxParameters];
  Buffer<T> observed;  // the mask as 1 and 0, if there is a mask
  Buffer<uint8_t> mask_buffer;
  const T* tiles[kMaxParameters] = {};
  const uint8_t* mask = nullptr;

  explicit RowTiles(const DensityCall& c) : call(c) {}

  // Loads features [begin, begin + count) of the row at these offsets, of the parameters and then of the mask.
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

// The parameters of the vector of features that starts at `position` in the tiles.
template <class Density>
static inline Parameters<Density> load_parameters(const typename Density::Scalar* const* tiles, int position) {
  Parameters<Density> parameters;
  for (int p = 0; p < Density::kParameters; ++p) {
    parameters.value[p] = Simd<typename Density::Scalar>::load(tiles[p] + position);
  }
  return parameters;
}

template <class Density>
static inline Parameters<Density> gradients_of(const Parameters<Density>& parameters) {
  Parameters<Density> gradients;
  Density::gradients(parameters.value, gradients.value);
  return gradients;
}

// The number of features in the tile that starts at `begin`: whole vectors first, the remainder as a tile of its own.
template <class T>
static inline int tile_size(int64_t begin, int64_t end) {
  const int64_t left = end - begin;
  if (left >= kTile) return kTile;
  constexpr int lanes = Simd<T>::kLanes;
  return static_cast<int>(left < lanes ? left : left - left % lanes);
}

// Calls body with a compile-time constant whose bits are the requested gradients, so that only those are computed. Long
// formulas share what takes their time, and would take minutes to compile so often: for them the bits are those of no
// gradient, of all but that of the value, or of all, and only the requested ones are stored.
template <class Density, unsigned kWanted = 0, class Body>
static inline void with_wanted(unsigned wanted, const Body& body) {
  constexpr unsigned kAll = (1u << Density::kParameters) - 1;
  if constexpr (Density::kLong) {
    if (wanted == 0) return body(std::integral_constant<unsigned, 0>{});
    if ((wanted & 1) == 0) return body(std::integral_constant<unsigned, kAll - 1>{});
    return body(std::integral_constant<unsigned, kAll>{});
  } else {
    if (wanted == kWanted) return body(std::integral_constant<unsigned, kWanted>{});
    if constexpr (kWanted < kAll) with_wanted<Density, kWanted + 1>(wanted, body);
  }
}

// True if a gradient whose bit is set is stored.
template <class Density, unsigned kWanted>
static inline bool is_stored(int parameter, const void* to) {
  return (kWanted >> parameter & 1) && (!Density::kLong || to != nullptr);
}

// Stores the gradients of one vector of features, times a factor; those of masked features are 0.
template <class Density, unsigned kWanted>
static inline void store_gradients(const Parameters<Density>& gradients, typename Density::Value factor,
                                   const typename Density::Scalar* observed, typename Density::Scalar* const* to,
                                   int position) {
  using S = typename Density::Math;
  for (int p = 0; p < Density::kParameters; ++p) {
    if (!is_stored<Density, kWanted>(p, to[p])) continue;
    typename S::Value value = factor * gradients.value[p];
    // Selected, not multiplied: a factor of NaN must not reach a masked feature.
    if (observed != nullptr) value = S::zero_where_zero(S::load(observed + position), value);
    S::store(to[p] + position, value);
  }
}

// Rows of gradients that the forward pass computes together with the density, in the order of the walk.
template <class Density, unsigned kWanted>
struct KeptRows {
  using T = typename Density::Scalar;

  Operand operands[kMaxParameters];
  int64_t features;
  Buffer<T> buffers[kWanted == 0 ? 1 : Density::kParameters];

  explicit KeptRows(const DensityForwardCall& call) : features(call.shape.sizes[call.shape.dims - 1]) {
    for (int p = 0; p < Density::kParameters; ++p) {
      operands[p].data = static_cast<char*>(call.kept[p]);
      operands[p].dtype = dtype_of<T>();
    }
  }

  bool is_kept(int p) const { return is_stored<Density, kWanted>(p, operands[p].data); }

  // Sets `out` to the memory in which to compute the gradients of a tile of this row; end() then moves them.
  void begin(int64_t row, int64_t first, int count, T** out) {
    for (int p = 0; p < Density::kParameters; ++p) {
      if (is_kept(p)) out[p] = output_tile<T>(operands[p], row * features + first, count, buffers[p]);
    }
  }
  // Moves the gradients of a tile to their tensors.
  void end(int64_t row, int64_t first, int count, T* const* out) {
    for (int p = 0; p < Density::kParameters; ++p) {
      if (is_kept(p)) store_tile<T>(operands[p], row * features + first, count, out[p]);
    }
  }
  // Multiplies a row by a coefficient; zero gives zero even where the gradient has overflowed.
  void scale(int64_t row, T coefficient) {
    using S = Simd<T>;
    for (int p = 0; p < Density::kParameters; ++p) {
      if (!is_kept(p)) continue;
      T* out = reinterpret_cast<T*>(operands[p].data) + row * features;
      if (coefficient == T(0)) {
        std::memset(out, 0, sizeof(T) * features);
        continue;
      }
      int64_t i = 0;
      for (; i + S::kLanes <= features; i += S::kLanes) S::store(out + i, S::load(out + i) * coefficient);
      for (; i < features; ++i) out[i] *= coefficient;
    }
  }
};

// The log-density and the gradients of the given row, at the current position of the walk.
template <class Density, unsigned kWanted>
static inline double row_log_prob(RowTiles<Density>& row, const DensityWalk& walk, KeptRows<Density, kWanted>& kept,
                                  int64_t number) {
  using T = typename Density::Scalar;
  using S = Simd<T>;
  constexpr int kLanes = Simd<T>::kLanes;
  constexpr int kUnroll = 4;  // independent sums hide the latency of additions, and each sum has fewer terms
  const int64_t features = row.call.shape.sizes[row.call.shape.dims - 1];
  Total<Density> total;
  int64_t observed = features;
  for (int64_t begin = 0; begin < features;) {
    const int count = tile_size<T>(begin, features);
    row.load([&](int operand) { return walk.offset(operand); }, begin, count);
    if (row.mask != nullptr) {
      for (int i = 0; i < count; ++i) observed -= row.mask[i] ? 0 : 1;
    }
    Sum<Density> sums[kUnroll];
    // Local copies, since the compiler must assume that stores of gradients may change the row's pointers.
    const T* tiles[kMaxParameters];
    for (int p = 0; p < Density::kParameters; ++p) tiles[p] = row.tiles[p];
    const T* observed_tile = row.mask != nullptr ? row.observed.data : nullptr;
    T* out[kMaxParameters] = {};
    kept.begin(number, begin, count, out);
    const auto add = [&](Sum<Density>& sum, int position) {
      const Parameters<Density> parameters = load_parameters<Density>(tiles, position);
      sum.add(parameters);
      if constexpr (kWanted != 0) {
        store_gradients<Density, kWanted>(gradients_of(parameters), S::one(), observed_tile, out, position);
      }
    };
    const int padded = round_up<T>(count);
    int i = 0;
    for (; i + kUnroll * kLanes <= padded; i += kUnroll * kLanes) {
      for (int u = 0; u < kUnroll; ++u) add(sums[u], i + u * kLanes);
    }
    for (; i < padded; i += kLanes) add(sums[0], i);
    kept.end(number, begin, count, out);
    total.add(sums[0], sums[1], sums[2], sums[3]);
    begin += count;
  }
  return total.value() + Density::kConstant * static_cast<double>(observed);
}

static inline unsigned wanted_gradients(const DensityForwardCall& call) {
  unsigned wanted = 0;
  for (int p = 0; p < kMaxParameters; ++p) wanted |= (call.kept[p] != nullptr ? 1u : 0u) << p;
  return wanted;
}

template <class Density>
static void density_forward(const DensityForwardCall& call) {
  using T = typename Density::Scalar;
  const Axes leading = axes_between(0, call.shape.dims - 1);
  const int64_t rows = leading.size(call.shape);
  T* out = static_cast<T*>(call.log_prob);
  with_wanted<Density>(wanted_gradients(call), [&](auto wanted) {
    parallel(rows, useful_threads(call.shape.count(), call.threads), [&](int64_t begin, int64_t end) {
      RowTiles<Density> row(call);
      KeptRows<Density, wanted()> kept(call);
      DensityWalk walk = density_walk(call, leading, begin);
      for (int64_t r = begin; r < end; ++r, walk.next()) out[r] = static_cast<T>(row_log_prob(row, walk, kept, r));
    });
  });
}

// One pass over the data: gradients summed over the axes `reduced`, and gradients that are not summed.
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
  // Local copies, since the compiler must assume that stores to `out` may change the row's pointers.
  const T* tiles[kMaxParameters];
  T* outputs[kMaxParameters];
  for (int p = 0; p < Density::kParameters; ++p) {
    tiles[p] = row.tiles[p];
    outputs[p] = out[p];
  }
  const T* observed = row.mask != nullptr ? row.observed.data : nullptr;
  for (int i = 0; i < padded; i += S::kLanes) {
    store_gradients<Density, kWanted>(gradients_of(load_parameters<Density>(tiles, i)), S::all(scale), observed,
                                      outputs, i);
  }
}

// Buffers for the gradients of one tile: those of a row, and their sum over rows in double, since a running float32 sum
// over thousands of rows would lose digits.
template <class T>
struct GradientTile {
  Buffer<T> row;
  Buffer<double> sum;
};

// Features [begin, begin + count) of one kept row, summed over the reduced rows in a fixed order.
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
      with_wanted<Density>(pass.wanted,
                           [&](auto wanted) { gradient_tile<Density, wanted()>(row, scale, padded, out); });
    } else {  // a coefficient of zero gives zero even where the gradient overflows: 0 * inf would be NaN
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
  // No sum runs over features, so if few rows are kept, their features are distributed over the threads too.
  constexpr int64_t kFewRows = 64, kBlock = 64;
  const int64_t block = kept_rows < kFewRows || features == 0 ? kBlock : features;
  const int64_t blocks = (features + block - 1) / block;
  parallel(kept_rows * blocks, useful_threads(call.shape.count(), call.threads), [&](int64_t begin, int64_t end) {
    RowTiles<Density> row(call);
    GradientTile<T> made[kMaxParameters];
    GradientWalk kept = gradient_walk(call, pass.kept, begin / blocks);
    GradientWalk inner = gradient_walk(call, pass.reduced, 0);  // returns to its start after every use
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

// The leading axes over which a gradient is summed, as bits: those along which its tensor is broadcast.
static inline unsigned broadcast_axes(const Shape& shape, const Operand& operand) {
  unsigned axes = 0;
  for (int axis = 0; axis < shape.dims - 1; ++axis) {
    if (operand.strides[axis] == 0 && shape.sizes[axis] != 1) axes |= 1u << axis;
  }
  return axes;
}

// One pass per distinct set of summed axes; gradients that are not summed are computed in the first pass.
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
