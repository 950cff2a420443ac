// The gradients of a density's parameters, entry by entry, and summed where a parameter is broadcast. Sums have a fixed
// order, so that results are bitwise reproducible.
#pragma once

#include "density_forward.h"

namespace iwae {
namespace IWAE_ISA {

// The coefficient of a row's gradients: its entry of the upstream gradient (kRowIn), or 1 without one. For a loss,
// which has weights (kRowOut), it is the gradient of the row's log-weight, -share * grad * weight.
struct RowCoefficients {
  const char* weights = nullptr;
  char* written = nullptr;  // output for the coefficients, or null
  double share = 1.0;

  template <class T>
  __device__ __forceinline__ T at(const View& grad, int64_t in, int64_t out) const {
    T coefficient = grad.data ? load_one<T>(grad.data, grad.dtype, in) : T(1);
    if (weights == nullptr) return coefficient;
    const T weight = reinterpret_cast<const T*>(weights)[out];
    return weight == T(0) || coefficient == T(0) ? T(0) : -static_cast<T>(share) * coefficient * weight;
  }

  template <class T>
  __device__ __forceinline__ void write(int64_t out, T coefficient) const {
    if (written != nullptr) reinterpret_cast<T*>(written)[out] = coefficient;
  }
};

// The gradients of a thread's elements of one row; 0 where not observed, and where the coefficient is 0 even if the
// slope overflows: 0 * inf would be NaN.
template <class Density, class Loader>
__device__ __forceinline__ void row_gradients(Elements<Density, Loader>& elements, int row,
                                              typename Density::Scalar coefficient,
                                              typename Density::Scalar (&made)[Density::kParameters][Loader::kWidth]) {
  using T = typename Density::Scalar;
  const unsigned bits = coefficient == T(0) ? 0 : elements.observed(row);
  elements.take(row, bits);
#pragma unroll
  for (int i = 0; i < Loader::kWidth; ++i) {
    T parameters[Density::kParameters], slopes[Density::kParameters];
    elements.parameters(i, parameters);
    Density::gradients(parameters, slopes);
    const bool counts = elements.masked() ? bits >> i & 1 : coefficient != T(0);
#pragma unroll
    for (int p = 0; p < Density::kParameters; ++p) made[p][i] = counts ? coefficient * slopes[p] : T(0);
  }
}

// Writes the gradients of a tile's rows for the parameters whose bit is set in `wanted`.
template <class Density, class Loader>
__device__ __forceinline__ void write_gradients(
    const Rows& plan, const Tile& tile, const Team& team,
    const typename Density::Scalar (&coefficient)[kRowsATeam<Density, Loader>], unsigned wanted) {
  using T = typename Density::Scalar;
  constexpr int kWidth = Loader::kWidth, kRows = kRowsATeam<Density, Loader>;
  const int64_t features = tile.rows > 0 ? plan.features : 0, step = int64_t{team.lanes} * kWidth;
  for (int64_t feature = int64_t{team.lane} * kWidth; feature < features; feature += step) {
    Elements<Density, Loader> elements(plan, tile, feature);
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      if (r > 0 && r >= tile.rows) break;  // a tile with features to read has a row
      T made[Density::kParameters][kWidth];
      row_gradients(elements, r, coefficient[r], made);
#pragma unroll
      for (int p = 0; p < Density::kParameters; ++p) {
        if (wanted >> p & 1) {
          Loader::store(plan.view[kGradients + p], tile.row(plan, kGradients + p, r), feature, made[p]);
        }
      }
    }
  }
}

template <class Density, class Loader>
IWAE_BOUNDED_KERNEL(kThreads, (resident_blocks<Density, Loader>()))
gradient_kernel(const Rows plan, const RowCoefficients coefficients, const unsigned wanted) {
  begin_kernel();
  using T = typename Density::Scalar;
  constexpr int kRows = kRowsATeam<Density, Loader>;
  const Team team(plan.lanes_log2);
  const Tile tile(plan, team.index);
  T coefficient[kRows] = {};
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r >= tile.rows) break;
    const int64_t out = tile.row(plan, kRowOut, r);
    coefficient[r] = coefficients.template at<T>(plan.view[kRowIn], tile.row(plan, kRowIn, r), out);
    if (team.lane == 0) coefficients.write(out, coefficient[r]);
  }
  write_gradients<Density, Loader>(plan, tile, team, coefficient, wanted);
}

// Sums over rows: a block handles one row of the kept axes, kWarp loads of features, and one split of the summed rows.
struct SumPlan {
  Walk<kOperands> kept;
  Rows rows;  // that are summed
  int64_t feature_blocks = 1, splits = 1, tiles_a_split = 0;
  unsigned wanted = 0, is_summed = 0;
  double* partial[kMaxParameters] = {};  // (splits, kept, features), if there is more than one split
};

constexpr int kRowLanes = kThreads / kWarp;

template <class Density, class Loader>
IWAE_KERNEL summed_gradient_kernel(const SumPlan plan, const RowCoefficients coefficients) {
  begin_kernel();
  using T = typename Density::Scalar;
  constexpr int kParameters = Density::kParameters, kWidth = Loader::kWidth;
  constexpr int kRows = kRowsATeam<Density, Loader>, kTilesASum = 16 / kRows;
  __shared__ double place[kRowLanes][kWarp * kWidth];
  const int lane = threadIdx.x % kWarp, row_lane = threadIdx.x / kWarp;
  const Division by_block = divide(blockIdx.x, plan.feature_blocks), by_split = divide(by_block.quotient, plan.splits);
  const int64_t kept_row = by_split.quotient, split = by_split.remainder;
  const int64_t feature = (by_block.remainder * kWarp + lane) * kWidth;
  const bool inside = feature < plan.rows.features;
  __shared__ int64_t kept[kOperands];  // the same for all threads, whose registers are scarce
  if (threadIdx.x == 0) plan.kept.offsets(kept_row, kept);
  __syncthreads();
  const int64_t end = (split + 1) * plan.tiles_a_split, count = plan.rows.teams();
  const int64_t stop = end < count ? end : count;
  double total[kParameters][kWidth] = {};
  for (int64_t first = split * plan.tiles_a_split + row_lane; first < stop; first += kTilesASum * kRowLanes) {
    T part[kParameters][kWidth] = {};
#pragma unroll 1
    for (int turn = 0; turn < kTilesASum; ++turn) {
      const int64_t number = first + turn * kRowLanes;
      if (number >= stop) break;
      Tile tile(plan.rows, number);
#pragma unroll
      for (int o = 0; o < kOperands; ++o) tile.offset[o] += kept[o];
      T coefficient[kRows] = {};
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r >= tile.rows) break;
        const int64_t out = tile.row(plan.rows, kRowOut, r);
        coefficient[r] = coefficients.template at<T>(plan.rows.view[kRowIn], tile.row(plan.rows, kRowIn, r), out);
        if (feature == 0) coefficients.write(out, coefficient[r]);
      }
      if (!inside) continue;
      Elements<Density, Loader> elements(plan.rows, tile, feature);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r > 0 && r >= tile.rows) break;
        T made[kParameters][kWidth];
        row_gradients(elements, r, coefficient[r], made);
#pragma unroll
        for (int p = 0; p < kParameters; ++p) {
          if (plan.is_summed >> p & 1) {
#pragma unroll
            for (int i = 0; i < kWidth; ++i) part[p][i] += made[p][i];
          } else if (plan.wanted >> p & 1) {
            Loader::store(plan.rows.view[kGradients + p], tile.row(plan.rows, kGradients + p, r), feature, made[p]);
          }
        }
      }
    }
#pragma unroll
    for (int p = 0; p < kParameters; ++p) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) total[p][i] += static_cast<double>(part[p][i]);
    }
  }
#pragma unroll
  for (int p = 0; p < kParameters; ++p) {
    if (!(plan.is_summed >> p & 1)) continue;
    __syncthreads();
#pragma unroll
    for (int i = 0; i < kWidth; ++i) place[row_lane][lane * kWidth + i] = total[p][i];
    __syncthreads();
    if (row_lane != 0 || !inside) continue;
    const View& gradient = plan.rows.view[kGradients + p];
    for (int i = 0; i < kWidth && feature + i < plan.rows.features; ++i) {
      double sum = 0.0;
      for (int other = 0; other < kRowLanes; ++other) sum += place[other][lane * kWidth + i];
      if (plan.splits > 1) {
        plan.partial[p][(split * plan.kept.outer_count + kept_row) * plan.rows.features + feature + i] = sum;
      } else {
        store_one(gradient.data, gradient.dtype, kept[kGradients + p] + feature + i, sum);
      }
    }
  }
}

// Adds up the splits in order; the output is contiguous.
IWAE_KERNEL split_sum_kernel(const double* partial, const int64_t splits, const int64_t count, const View sums) {
  begin_kernel();
  const int64_t at = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (at >= count) return;
  double sum = 0.0;
  for (int64_t split = 0; split < splits; ++split) sum += partial[split * count + at];
  store_one(sums.data, sums.dtype, at, sum);
}

// Writes only the coefficients, of `count` contiguous rows.
template <class T>
IWAE_KERNEL coefficient_kernel(const Walk<1> grads, const View grad, const RowCoefficients coefficients) {
  begin_kernel();
  const int64_t row = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  if (row >= grads.outer_count) return;
  int64_t in[1];
  grads.offsets(row, in);
  coefficients.write(row, coefficients.template at<T>(grad, in[0], row));
}

// One pass over all rows: gradients of the parameters in `wanted`; those in `is_summed` are summed over `axes`.
template <class Density>
void gradient_pass(const DensityBackwardCall& call, const RowCoefficients& coefficients, unsigned wanted,
                   unsigned is_summed, unsigned axes) {
  Operand outputs[kMaxParameters];
  for (int p = 0; p < Density::kParameters; ++p) {
    if (wanted >> p & 1) outputs[p] = call.gradients[p];
  }
  const Operand of_rows =
      contiguous(const_cast<char*>(coefficients.weights), accumulation(call), call.shape, call.shape.dims - 1);
  Operands operands;
  set_operands(operands, call, call.grad, of_rows, outputs);
  if (is_summed == 0) {
    with_loader<Density, false>(call, outputs, [&](auto loader, const View* views) {
      using Loader = decltype(loader);
      const Rows rows = plan_rows<Density, Loader>(call, leading_axes(call.shape), operands, views);
      launch(gradient_kernel<Density, Loader>, rows.blocks(), 0, call.cuda_stream, rows, coefficients, wanted);
    });
    return;
  }
  with_loader<Density, true>(call, outputs, [&](auto loader, const View* views) {
    using Loader = decltype(loader);
    SumPlan plan;
    plan.kept = walk_over(call.shape, leading_axes(call.shape) & ~axes, operands, 0, kNone);
    plan.feature_blocks = ceil_divide(call.shape.sizes[call.shape.dims - 1], int64_t{kWarp} * Loader::kWidth);
    const int64_t together = plan.kept.outer_count * plan.feature_blocks;
    if (together == 0) return;
    plan.rows = plan_rows<Density, Loader>(call, axes, operands, views, -1, together);
    plan.wanted = wanted;
    plan.is_summed = is_summed;
    constexpr int64_t kEnoughBlocks = 1024, kFewestTiles = 8 * kRowLanes;
    const int64_t tiles = plan.rows.teams();
    plan.tiles_a_split = ceil_divide(tiles, ceil_divide(kEnoughBlocks, together));
    if (plan.tiles_a_split < kFewestTiles) plan.tiles_a_split = kFewestTiles;
    plan.splits = tiles > plan.tiles_a_split ? ceil_divide(tiles, plan.tiles_a_split) : 1;
    const int64_t sums = plan.kept.outer_count * plan.rows.features;
    for (int p = 0; p < Density::kParameters && plan.splits > 1; ++p) {
      if (!(is_summed >> p & 1)) continue;
      const int64_t bytes = plan.splits * sums * static_cast<int64_t>(sizeof(double));
      plan.partial[p] = static_cast<double*>(call.allocate(call.allocator, bytes));
    }
    launch(summed_gradient_kernel<Density, Loader>, together * plan.splits, 0, call.cuda_stream, plan, coefficients);
    for (int p = 0; p < Density::kParameters; ++p) {
      if (plan.partial[p] == nullptr) continue;
      launch(split_sum_kernel, ceil_divide(sums, kThreads), 0, call.cuda_stream, plan.partial[p], plan.splits, sums,
             plan.rows.view[kGradients + p]);
    }
  });
}

// The leading axes over which a gradient is summed, as bits: those along which its tensor is broadcast.
inline unsigned broadcast_axes(const Shape& shape, const Operand& operand) {
  unsigned axes = 0;
  for (int axis = 0; axis < shape.dims - 1; ++axis) {
    if (operand.strides[axis] == 0 && shape.sizes[axis] != 1) axes |= 1u << axis;
  }
  return axes;
}

// Writes the coefficients alone, if no gradient of a parameter is requested.
inline void write_coefficients(const DensityBackwardCall& call, const RowCoefficients& coefficients) {
  if (coefficients.written == nullptr) return;
  const Operand* operands[1] = {&call.grad};
  const Walk<1> grads = walk_over(call.shape, leading_axes(call.shape), operands, 0, kNone);
  const auto kernel = call.float64 ? coefficient_kernel<double> : coefficient_kernel<float>;
  launch(kernel, ceil_divide(grads.outer_count, kThreads), 0, call.cuda_stream, grads,
         view_of(call.grad, call.shape.dims - 1), coefficients);
}

// One pass per distinct set of summed axes; the first also computes gradients that are not summed, and writes the
// coefficients if requested.
template <class Density>
void density_backward(const DensityBackwardCall& call, RowCoefficients coefficients) {
  unsigned waiting = 0, everywhere = 0, axes[kMaxParameters] = {};
  for (int p = 0; p < Density::kParameters; ++p) {
    if (!call.gradients[p]) continue;
    axes[p] = broadcast_axes(call.shape, call.gradients[p]);
    (axes[p] == 0 ? everywhere : waiting) |= 1u << p;
  }
  if ((waiting | everywhere) == 0 || call.shape.sizes[call.shape.dims - 1] == 0) {
    write_coefficients(call, coefficients);
    return;
  }
  while (waiting | everywhere) {
    unsigned is_summed = 0, over = 0;
    for (int p = 0; p < Density::kParameters; ++p) {
      if (!(waiting >> p & 1) || (is_summed != 0 && axes[p] != over)) continue;
      over = axes[p];
      is_summed |= 1u << p;
    }
    gradient_pass<Density>(call, coefficients, is_summed | everywhere, is_summed, over);
    coefficients.written = nullptr;
    waiting &= ~is_summed;
    everywhere = 0;
  }
}

}  // namespace IWAE_ISA
}  // namespace iwae
