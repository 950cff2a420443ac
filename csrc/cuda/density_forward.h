// The sum of a density over its features: a team of lanes processes several rows at a time.
#pragma once

#include "density.h"

namespace iwae {
namespace IWAE_ISA {

// The log-densities of a tile's rows, on every lane of the team. All lanes of the warp must call it, even without rows.
template <class Density, class Loader>
__device__ __forceinline__ void sum_rows(const Rows& plan, const Tile& tile, const Team& team,
                                         double (&total)[kRowsATeam<Density, Loader>]) {
  using T = typename Density::Scalar;
  constexpr int kWidth = Loader::kWidth, kRows = kRowsATeam<Density, Loader>;
  // Short sums are in the dtype of the call, their totals in double; the product of as many factors, each at most 2,
  // fits into a float.
  constexpr int kLoadsASum = 64 / kWidth;
  int unobserved[kRows];
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    total[r] = 0.0;
    unobserved[r] = 0;
  }
  const int64_t features = tile.rows > 0 ? plan.features : 0, step = int64_t{team.lanes} * kWidth;
  for (int64_t feature = int64_t{team.lane} * kWidth; feature < features;) {
    T sum[kRows], factors[kRows];
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      sum[r] = T(0);
      factors[r] = T(1);
    }
#pragma unroll 1
    for (int load = 0; load < kLoadsASum && feature < features; ++load, feature += step) {
      Elements<Density, Loader> elements(plan, tile, feature);
#pragma unroll
      for (int r = 0; r < kRows; ++r) {
        if (r > 0 && r >= tile.rows) break;  // a tile with features to read has a row
        const unsigned bits = elements.observed(r);
        elements.take(r, bits);
        if (elements.masked()) unobserved[r] += kWidth - __popc(bits);
#pragma unroll
        for (int i = 0; i < kWidth; ++i) {
          T parameters[Density::kParameters];
          elements.parameters(i, parameters);
          Density::add(parameters, sum[r], factors[r]);
        }
      }
    }
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
      total[r] += Density::kScale *
                  static_cast<double>(Density::kHasFactors ? sum[r] - Math<T>::log(factors[r]) : sum[r]);
    }
  }
#pragma unroll
  for (int r = 0; r < kRows; ++r) {
    if (r >= plan.rows) break;  // the same for every lane of the launch
    if (Density::kConstant != 0.0) total[r] -= Density::kConstant * unobserved[r];
    total[r] = team.sum(total[r]) + Density::kConstant * static_cast<double>(plan.features);
  }
}

// Adds the operand that is read once per row, if there is one.
template <class Density, class Loader>
IWAE_BOUNDED_KERNEL(kThreads, (resident_blocks<Density, Loader>()))
log_prob_kernel(const Rows plan) {
  begin_kernel();
  constexpr int kRows = kRowsATeam<Density, Loader>;
  const Team team(plan.lanes_log2);
  const Tile tile(plan, team.index);
  double total[kRows];
  sum_rows<Density, Loader>(plan, tile, team, total);
  const View &addend = plan.view[kRowIn], &result = plan.view[kRowOut];
  // A lane writes a row; a team of fewer lanes than rows takes several turns.
#pragma unroll 1
  for (int r = team.lane; r < tile.rows; r += team.lanes) {
    double own = total[0];
#pragma unroll
    for (int other = 1; other < kRows; ++other) own = r == other ? total[other] : own;
    if (addend.data) own += load_one<double>(addend.data, addend.dtype, tile.row(plan, kRowIn, r));
    store_one(result.data, result.dtype, tile.row(plan, kRowOut, r), own);
  }
}

// An operand for a contiguous tensor with the first `dims` axes of a shape.
inline Operand contiguous(void* data, DType dtype, const Shape& shape, int dims) {
  Operand operand;
  operand.data = static_cast<char*>(data);
  operand.dtype = dtype;
  int64_t stride = 1;
  for (int axis = dims - 1; axis >= 0; --axis) {
    operand.strides[axis] = stride;
    stride *= shape.sizes[axis];
  }
  return operand;
}

inline DType accumulation(const DensityCall& call) { return call.float64 ? DType::kFloat64 : DType::kFloat32; }

// Writes log-densities (...) of all leading axes, plus `addend` if there is one.
template <class Density>
void log_prob(const DensityCall& call, const Operand& addend, void* log_prob) {
  const Operand result = contiguous(log_prob, accumulation(call), call.shape, call.shape.dims - 1);
  Operands operands;
  set_operands(operands, call, addend, result);
  with_loader<Density, false>(call, nullptr, [&](auto loader, const View* views) {
    using Loader = decltype(loader);
    const Rows rows = plan_rows<Density, Loader>(call, leading_axes(call.shape), operands, views);
    launch(log_prob_kernel<Density, Loader>, rows.blocks(), 0, call.cuda_stream, rows);
  });
}

}  // namespace IWAE_ISA
}  // namespace iwae
