// What happens to the elements of a product's tile: activations and their derivatives, the likelihood, and gradients.
#pragma once

#include "../../math/bernoulli.h"
#include "product.h"
#include "update.h"

namespace iwae {
namespace IWAE_ISA {

// Calls use(element, row, value, loaded) for the thread's elements, in batches: load(row) for each of them first.
// Elements beyond the matrix have `row` -1 and loaded 0.
template <class T, class Load, class Use>
__device__ __forceinline__ void for_elements(const TilePart<T>& part, const TileOfItem<T>& tile, int rows, int columns,
                                             const Load& load, const Use& use) {
  constexpr int kBatch = TilePart<T>::kBatch;
  const bool has_column = tile.column + part.column < columns;
#pragma unroll 1
  for (int first = 0; first < TilePart<T>::kElements; first += kBatch) {
    float loaded[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int row = tile.row + part.row(first + i);
      loaded[i] = has_column && row < rows ? load(row) : 0.0f;
    }
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int row = tile.row + part.row(first + i);
      use(has_column && row < rows ? row : -1, row, part.value(first + i), loaded[i]);
    }
  }
}

// tanh to 2 units in the last place: small arguments by the library's series, which cancels nothing.
__device__ __forceinline__ float tanh_of(float x) { return tanhf(x); }

// Adds up the log-probabilities of neighboring columns: those of a row's lanes, at most a warp.
template <class T>
__device__ __forceinline__ float over_columns(float x) {
  constexpr int kLanes = T::kColumns < kWarp ? T::kColumns : kWarp;
#pragma unroll
  for (int distance = kLanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
  return x;
}

// The parts into which a tile's columns divide the log-probability of a row.
template <class T>
constexpr int kRowParts = T::kColumns < kWarp ? 1 : T::kColumns / kWarp;

template <class T>
IWAE_NOT_INLINED void finish_tile(const TrainingTask& task, StepView view, int item) {
  const TileOfItem<T> tile(task, item);
  const TilePart<T> part(view);
  const int rows = static_cast<int>(task.rows), columns = static_cast<int>(task.columns);
  const int column = tile.column + part.column;
  float* const out = floats(task.out) + tile.part * task.out_part + column;
  const float* const other = floats(task.other, task.other_parity, view.odd()) + column;
  const int64_t out_stride = task.out_stride, other_stride = task.other_stride;
  const float bias = task.bias != 0 && column < columns ? read_global(floats(task.bias) + column) : 0.0f;
  const auto nothing = [](int) { return 0.0f; };
  switch (static_cast<Finish>(task.finish)) {
    case Finish::kPlain:
    case Finish::kLinear:
    case Finish::kPart:
      for_elements(part, tile, rows, columns, nothing, [&](int row, int, float value, float) {
        if (row >= 0) write_global(out + row * out_stride, value + bias);
      });
      break;
    case Finish::kTanh:
      for_elements(part, tile, rows, columns, nothing, [&](int row, int, float value, float) {
        if (row >= 0) write_global(out + row * out_stride, tanh_of(value + bias));
      });
      break;
    case Finish::kSlope:
      for_elements(
          part, tile, rows, columns, [&](int row) { return read_global(other + row * other_stride); },
          [&](int row, int, float value, float activation) {
            if (row >= 0) write_global(out + row * out_stride, value * (1.0f - activation * activation));
          });
      break;
    case Finish::kBernoulli: {
      const int observations = static_cast<int>(task.other_rows), lane = part.column % kWarp;
      float* const sums = floats(task.sums) + tile.column / T::kColumns * kRowParts<T> + part.column / kWarp;
      for_elements(
          part, tile, rows, columns,
          [&](int row) { return read_global(other + row % observations * other_stride); },
          [&](int row, int place, float value, float pixel) {
            using M = Math<float>;
            const float logit = value + bias;
            float term = 0.0f;
            if (row >= 0) {
              term = bernoulli_linear<M>(pixel, logit) - M::log(bernoulli_factor<M>(logit));
              write_global(out + row * out_stride, bernoulli_residual<M>(pixel, logit));
            }
            term = over_columns<T>(term);
            if (place < rows && lane == 0) write_global(sums + place * task.sums_stride, term);
          });
      break;
    }
    case Finish::kAdam:
      load_coefficients(task, view);
      update_tile(task, view, part, tile);
      break;
  }
  __syncthreads();  // the block's memory is free
}

}  // namespace IWAE_ISA
}  // namespace iwae
