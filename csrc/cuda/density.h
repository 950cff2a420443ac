// Code shared by all densities over the last axis: the plan of a launch, and rows of elements with their mask.
//
// A `Density` (csrc/math/density.h) computes with one element of a thread: its Math is that of math.h.
// A `Loader` (load.h) defines how a thread reads and writes its elements, and the maximum number of rows.
#pragma once

#include <type_traits>

#include "../calls.h"
#include "load.h"
#include "walk.h"

namespace iwae {
namespace IWAE_ISA {

// The operands of a walk: parameters, mask, one operand read and one written once per row, gradients.
enum { kMaskOperand = kMaxParameters, kRowIn, kRowOut, kGradients, kOperands = kGradients + kMaxParameters };

using Operands = const Operand* [kOperands];

// Sets the operands of a call, and the tensors (..., D) that are written, if there are any.
inline void set_operands(Operands& operands, const DensityCall& call, const Operand& row_in, const Operand& row_out,
                         const Operand* outputs = nullptr) {
  for (int p = 0; p < kMaxParameters; ++p) {
    operands[p] = &call.parameters[p];
    operands[kGradients + p] = outputs == nullptr ? nullptr : &outputs[p];
  }
  operands[kMaskOperand] = &call.mask;
  operands[kRowIn] = &row_in;
  operands[kRowOut] = &row_out;
}

// The maximum number of rows per team, which is the number of independent loads of each parameter. It is limited by the
// shared memory of copies or the registers of loads, which must leave room for enough warps to hide the memory latency.
template <class Density, class Loader>
constexpr int kBytesARow =
    Density::kParameters * static_cast<int>(Loader::kCopies ? sizeof(Sixteen) : sizeof(typename Loader::Raw));
template <class Density, class Loader>
constexpr int kRowsInReach = kBytesARow<Density, Loader> <= 32 ? 4 : kBytesARow<Density, Loader> <= 64 ? 2 : 1;
template <class Density, class Loader>
constexpr int kRowsATeam = kRowsInReach<Density, Loader> < Loader::kMostRows ? kRowsInReach<Density, Loader>
                                                                             : Loader::kMostRows;

// The blocks of a multiprocessor for which a kernel's registers leave room. Where copies take none, 64 registers per
// thread are enough, or 80 for 16-bit numbers, of which a thread computes twice as many at once; 128 for those of three
// parameters.
template <class Density, class Loader>
constexpr int resident_blocks() {
  if (!Loader::kCopies) return 2;
  if (Loader::kWidth == 4) return 4;
  return Density::kParameters < 3 ? 3 : 2;
}

// The arguments of a launch over rows that all kernels share.
struct Rows {
  Walk<kOperands> walk;
  View view[kOperands];
  int64_t features = 0;
  int lanes_log2 = 5;
  unsigned by_row = 0;  // parameters that differ between the rows of a team, as bits; the others are read once
  int rows = 1;         // rows that a team processes together, along the inner axis
  int64_t tiles = 0;    // tiles of `rows` rows along the inner axis

  IWAE_EVERYWHERE int64_t teams() const { return walk.outer_count * tiles; }
  int64_t blocks() const { return ceil_divide(teams(), kThreads >> lanes_log2); }
};

// Consecutive rows along the inner axis: their number, and the offsets of the first.
struct Tile {
  int rows = 0;
  int64_t offset[kOperands];

  __device__ __forceinline__ Tile() {}

  // The tile of team `number` of a launch; without rows past the last team.
  __device__ __forceinline__ Tile(const Rows& plan, int64_t number) {
    const bool exists = number < plan.teams();
    const Division at = divide(exists ? number : 0, plan.tiles);
    take(plan, at.quotient, at.remainder * plan.rows, exists ? plan.rows : 0);
  }

  // At most `most` rows of an outer index, starting at `first`; no rows from `last` on.
  __device__ __forceinline__ Tile(const Rows& plan, int64_t outer, int64_t first, int most) {
    take(plan, outer, first < plan.walk.inner_count ? first : 0, first < plan.walk.inner_count ? most : 0);
  }

  __device__ __forceinline__ void take(const Rows& plan, int64_t outer, int64_t first, int most) {
    const int64_t left = plan.walk.inner_count - first;
    rows = left < most ? static_cast<int>(left) : most;
    plan.walk.offsets(outer, offset);
#pragma unroll
    for (int o = 0; o < kOperands; ++o) offset[o] += first * plan.walk.inner_strides[o];
  }

  __device__ __forceinline__ int64_t row(const Rows& plan, int operand, int number) const {
    return offset[operand] + number * plan.walk.inner_strides[operand];
  }
};

// The elements of a thread: `kWidth` neighboring features of each parameter, in several rows of a tile that has rows.
//
// All loads are started before any of them is used: an instruction that needs a number waits for it, and would keep the
// loads behind it from starting. So a parameter that is broadcast along the rows is not copied from row to row, and
// rows beyond the tile skip their loads without a jump.
template <class Density, class Loader>
struct Elements {
  using T = typename Density::Scalar;
  static constexpr int kParameters = Density::kParameters, kWidth = Loader::kWidth;
  static constexpr int kRows = kRowsATeam<Density, Loader>;
  static_assert(!Loader::kCopies || kRows > 1, "the first row of float32 beside 16-bit storage takes two places");

  const Rows& plan;
  const Tile& tile;
  int64_t feature;
  typename Loader::Raw held[kParameters][Loader::kCopies ? 1 : kRows];  // of loaders that do not copy
  T values[kParameters][kWidth] = {};                                   // of the row taken last

  __device__ __forceinline__ Elements(const Rows& p, const Tile& t, int64_t f) : plan(p), tile(t), feature(f) {
#pragma unroll
    for (int r = 0; r < kRows; ++r) {
#pragma unroll
      for (int i = 0; i < kParameters; ++i) {
        if (r > 0 && !(r < tile.rows && by_row(i))) continue;
        if constexpr (Loader::kCopies) {
          Loader::start(place(i, r), plan.view[i], tile.row(plan, i, r), feature, r == 0);
        } else {
          held[i][r] = Loader::load(plan.view[i], tile.row(plan, i, r), feature);
        }
      }
    }
    if constexpr (Loader::kCopies) {
      end_group_of_copies();
      wait_for_copies(0);
    }
  }

  // Sets `values` to the parameters of a row, with neutral ones where it is not observed. Rows must be taken in order.
  __device__ __forceinline__ void take(int row, unsigned bits) {
#pragma unroll
    for (int p = 0; p < kParameters; ++p) {
      if (row == 0 || by_row(p)) {
        convert(p, row);
      } else if (masked()) {  // the values of the row before have its neutral ones
        convert(p, 0);
      }
    }
    if (!masked()) return;
#pragma unroll
    for (int p = 0; p < kParameters; ++p) {
#pragma unroll
      for (int i = 0; i < kWidth; ++i) {
        if (!(bits >> i & 1)) values[p][i] = Density::neutral(p);
      }
    }
  }

  // The parameters of an element of the row taken last.
  __device__ __forceinline__ void parameters(int element, T (&of_element)[kParameters]) const {
#pragma unroll
    for (int p = 0; p < kParameters; ++p) of_element[p] = values[p][element];
  }

  __device__ __forceinline__ bool masked() const {
    return !Loader::kCopies && plan.view[kMaskOperand].data != nullptr;
  }

  // Bit i is 1 if element i of a row is observed.
  __device__ __forceinline__ unsigned observed(int row) const {
    unsigned bits = (1u << kWidth) - 1;
    if (!masked()) return bits;
    const View& mask = plan.view[kMaskOperand];
    const char* from = mask.data + tile.row(plan, kMaskOperand, row) + feature * mask.feature_stride;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) {
      if (!from[i * mask.feature_stride]) bits &= ~(1u << i);
    }
    return bits;
  }

 private:
  __device__ __forceinline__ bool by_row(int parameter) const { return plan.by_row >> parameter & 1; }

  __device__ __forceinline__ void convert(int parameter, int row) {
    const View& view = plan.view[parameter];
    if constexpr (Loader::kCopies) {
      Loader::convert(view, place(parameter, row), row == 0, values[parameter]);
    } else {
      Loader::convert(view, held[parameter][row], values[parameter]);
    }
  }

  // The place of a thread's elements of a row in shared memory. In float32 beside 16-bit storage those of the first row
  // take the next row's place too, which is free: see plan_rows.
  __device__ __forceinline__ static Sixteen* place(int parameter, int row) {
    __shared__ Sixteen places[kParameters][kRows][kThreads];
    return &places[parameter][row][threadIdx.x];
  }
};

// The number of lanes for rows of the given number of loads: a whole warp if few of its lanes are then idle, otherwise
// the number that wastes the fewest.
inline int lanes_for(int64_t loads) {
  int best = 5;
  double most = 0.0;
  for (int log2 = 5; log2 >= 0; --log2) {
    const int64_t lanes = int64_t{1} << log2, rounds = loads > 0 ? ceil_divide(loads, lanes) : 1;
    const double used = static_cast<double>(loads) / static_cast<double>(rounds * lanes);
    if (used >= 0.85) return log2;
    if (used > most) {
      most = used;
      best = log2;
    }
  }
  return best;
}

// The plan for a density's rows over `axes` of the call; `operands` in the order of the walk, `views` of parameters and
// gradients as a loader takes them. As many rows again are processed at the same time for each of `groups`.
template <class Density, class Loader>
Rows plan_rows(const DensityCall& call, unsigned axes, const Operand* const (&operands)[kOperands], const View* views,
               int inner_axis = -1, int64_t groups = 1) {
  Rows plan;
  const int last = call.shape.dims - 1;
  plan.walk = walk_over(call.shape, axes, operands, kMaxParameters, inner_axis);
  for (int o = 0; o < kOperands; ++o) {
    if (operands[o] != nullptr && *operands[o]) plan.view[o] = view_of(*operands[o], last);
  }
  plan.features = call.shape.sizes[last];
  plan.lanes_log2 = lanes_for(ceil_divide(plan.features, Loader::kWidth));
  plan.rows = kRowsATeam<Density, Loader>;
  for (int p = 0; p < Density::kParameters; ++p) {
    plan.view[p] = views[p];
    plan.view[kGradients + p] = views[kGradients + p];
    if (plan.walk.inner_strides[p] == 0) continue;
    plan.by_row |= 1u << p;
    if (Loader::kCopies && views[p].wide) plan.rows = 1;  // each row takes two places
  }
  // With few rows, prefer more teams over more rows per team.
  const auto threads = [&] {
    plan.tiles = ceil_divide(plan.walk.inner_count, plan.rows);
    return (plan.teams() << plan.lanes_log2) * groups;
  };
  while (threads() < kManyThreads && plan.rows > 1) plan.rows /= 2;
  return plan;
}

// Returns true if a loader supports all parameters and the tensors (..., D) that are written, and sets their views.
template <class Density, class Loader>
bool fits(const DensityCall& call, const Operand* outputs, View (&views)[kOperands]) {
  if (Loader::kCopies && call.mask) return false;
  const int last = call.shape.dims - 1;
  const auto fit = [&](const Operand& operand, View& view) {
    view = view_of(operand, last);
    return Loader::takes(view, call.shape.sizes[last], operand.strides, last);
  };
  bool all = true;
  for (int p = 0; p < Density::kParameters; ++p) {
    all = all && fit(call.parameters[p], views[p]);
    if (outputs != nullptr) all = all && fit(outputs[p], views[kGradients + p]);
  }
  return all;
}

// Calls body with the loader for a call: copies of 16 bytes at a time, in the dtype of the largest parameter, or loads,
// if all rows allow it; otherwise single elements, as for long formulas, and for float64, which is not optimized for
// speed. Loads are of two rows, since masks and numbers per row take registers, or of one for sums, which take more.
// For sums, 16-bit elements are rare, and read one by one.
template <class Density, bool kSums, class Body>
void with_loader(const DensityCall& call, const Operand* outputs, const Body& body) {
  using T = typename Density::Scalar;
  const auto attempt = [&](auto loader) {
    View views[kOperands];
    if (!fits<Density, decltype(loader)>(call, outputs, views)) return false;
    body(loader, views);
    return true;
  };
  const auto sixteen_bytes = [&](auto storage) {
    using Storage = decltype(storage);
    return attempt(Copying<Vector<Storage>>{}) || attempt(Vector<Storage, kSums ? 1 : 2>{});
  };
  if constexpr (std::is_same<T, float>::value && !Density::kLong) {
    bool has_bfloat16 = false, has_float16 = false;
    for (int p = 0; p < Density::kParameters; ++p) {
      has_bfloat16 = has_bfloat16 || call.parameters[p].dtype == DType::kBFloat16;
      has_float16 = has_float16 || call.parameters[p].dtype == DType::kFloat16;
    }
    if constexpr (!kSums && Density::kHalves) {
      // With 16-bit storage a load has the most elements; float32 operands of the same row need two loads.
      if (has_bfloat16 && sixteen_bytes(BFloat16{})) return;
      if (has_float16 && sixteen_bytes(Float16{})) return;
    }
    if (!has_bfloat16 && !has_float16 && sixteen_bytes(float{})) return;
  }
  if constexpr (Density::kLong) {
    attempt(SingleRow<T>{});
  } else {
    attempt(Single<T>{});
  }
}

}  // namespace IWAE_ISA
}  // namespace iwae
