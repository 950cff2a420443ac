// Products of matrices in tiles: operands are copied to shared memory in stages, multiplied by tensor cores, and the
// tile's sums are left in shared memory, where they are finished.
#pragma once

#include "run.h"
#include "tensor_cores.h"

namespace iwae {
namespace IWAE_ISA {

constexpr int kStages = 3;  // two are on their way while one is multiplied

// How a block's warps divide a tile: along rows, columns and the inner size. A warp has several rows and columns of
// tensor-core tiles, and takes a number of steps along the inner size per stage.
template <int kWarpRows_, int kWarpColumns_, int kWarpInner_, int kRowTiles_, int kColumnTiles_, int kSteps_>
struct Tiles {
  static constexpr int kWarpRows = kWarpRows_, kWarpColumns = kWarpColumns_, kWarpInner = kWarpInner_,
                       kRowTiles = kRowTiles_, kColumnTiles = kColumnTiles_, kSteps = kSteps_;
  static constexpr int kRows = kWarpRows * kRowTiles * kTileRows;
  static constexpr int kColumns = kWarpColumns * kColumnTiles * kTileColumns;
  static constexpr int kInner = kWarpInner * kSteps * kTileInner;  // of a stage
  static constexpr int kResultStride = kColumns + (kColumns % 32 == 0 ? 8 : 0);
  static_assert(kWarpRows * kWarpColumns * kWarpInner * kWarp == kThreads, "every warp has a part");
};

using WideTiles = Tiles<4, 2, 1, 1, 4, 4>;
using FlatTiles = Tiles<2, 4, 1, 1, 2, 4>;
using ThinTiles = Tiles<1, 1, 8, 2, 1, 2>;

// An operand's part of a stage: rows of contiguous elements, padded so that the lanes of a warp read different banks.
template <int kRows_, int kColumns_, bool kAlongInner>
struct Stage {
  static constexpr int kRows = kRows_, kColumns = kColumns_;
  static constexpr int kPadding = kAlongInner ? 4 : kColumns % 32 == 0 ? 8 : 0;
  static constexpr int kStride = kColumns + kPadding, kFloats = kRows * kStride;
};

// A matrix to copy from: its first element, the rows and columns that exist from there on, and the matrix that has its
// rows from `rest_from` on.
struct Source {
  const float* first;
  const float* rest;
  int64_t stride;
  int rest_from, rows, columns;
  bool wide;
};

// Starts the copies of a stage, with zeros beyond the matrix.
template <class Layout>
__device__ __forceinline__ void copy_stage(float* to, const Source& from) {
  constexpr int kGroups = Layout::kColumns / 4;
#pragma unroll 1
  for (int i = static_cast<int>(threadIdx.x); i < Layout::kRows * kGroups; i += kThreads) {
    const int row = i / kGroups, column = 4 * (i % kGroups), left = row < from.rows ? from.columns - column : 0;
    const float* rows = row < from.rest_from ? from.first + row * from.stride
                                             : from.rest + (row - from.rest_from) * from.stride;
    float* place = to + row * Layout::kStride + column;
    if (from.wide) {
      copy_part(place, left > 0 ? rows + column : from.first, left > 3 ? 16 : left > 0 ? 4 * left : 0);
      continue;
    }
#pragma unroll
    for (int j = 0; j < 4; ++j) copy_four(place + j, j < left ? rows + column + j : from.first, j < left ? 4 : 0);
  }
}

// The item of a product: its tile and its part of the inner size.
template <class T>
struct TileOfItem {
  int row, column, begin, end, part;

  __device__ __forceinline__ TileOfItem(const TrainingTask& task, int item) {
    const int columns = static_cast<int>(task.column_tiles);
    const int rows = (static_cast<int>(task.rows) + T::kRows - 1) / T::kRows, tile = item / columns;
    column = item % columns * T::kColumns;
    row = tile % rows * T::kRows;
    part = tile / rows;
    begin = part * static_cast<int>(task.inner_part);
    end = least(begin + static_cast<int>(task.inner_part), static_cast<int>(task.inner));
  }
};

// Leaves the sums of a tile in the block's work memory, (kWarpInner, kRows, kResultStride), to be added over the first
// axis. `kAlongA` and `kAlongB` say whether the operands are contiguous along the inner size; with `kScaled` each of
// its rows has a factor.
template <class T, bool kAlongA, bool kAlongB, bool kScaled, int kProducts>
IWAE_NOT_INLINED void multiply_tile(const TrainingTask& task, StepView view, int item) {
  using A = Stage<kAlongA ? T::kRows : T::kInner, kAlongA ? T::kInner : T::kRows, kAlongA>;
  using B = Stage<kAlongB ? T::kColumns : T::kInner, kAlongB ? T::kInner : T::kColumns, kAlongB>;
  constexpr int kStageFloats = A::kFloats + B::kFloats + (kScaled ? T::kInner : 0);
  static_assert(kStages * kStageFloats <= kWorkFloats, "the stages fit");
  static_assert(T::kWarpInner * T::kRows * T::kResultStride <= kWorkFloats, "the results fit");
  float* const work = view.memory->work;
  const TileOfItem<T> tile(task, item);
  const float* const a = floats(task.a, task.a_parity, view.odd());
  const float* const b = floats(task.b, task.b_parity, view.odd());
  const int thread = static_cast<int>(threadIdx.x), stages = (tile.end - tile.begin + T::kInner - 1) / T::kInner;

  const auto start = [&](int stage) {
    if (stage < stages) {
      float* const place = work + stage % kStages * kStageFloats;
      const int inner = tile.begin + stage * T::kInner, left = tile.end - inner;
      const auto source = [&](const float* matrix, int64_t stride, bool wide, bool along, int across, int size) {
        const float* first = matrix + (along ? across * stride + inner : inner * stride + across);
        return along ? Source{first, nullptr, stride, 1 << 30, size - across, left, wide}
                     : Source{first, nullptr, stride, 1 << 30, left, size - across, wide};
      };
      copy_stage<A>(place, source(a, task.a_stride, task.a_wide != 0, kAlongA, tile.row, static_cast<int>(task.rows)));
      Source from = source(b, task.b_stride, task.b_wide != 0, kAlongB, tile.column, static_cast<int>(task.columns));
      if (!kAlongB && task.b_rest != 0) {
        const int own = static_cast<int>(task.b_first) - inner;
        from.rest_from = own > 0 ? own : 0;
        from.rest = floats(task.b_rest) + (own > 0 ? 0 : -own) * task.b_stride + tile.column;
        if (own <= 0) from.first = from.rest;
      }
      copy_stage<B>(place + A::kFloats, from);
      if (kScaled && thread < T::kInner) {
        const float* const scale = floats(task.row_scale);
        copy_four(place + A::kFloats + B::kFloats + thread, thread < left ? scale + inner + thread : scale,
                  thread < left ? 4 : 0);
      }
    }
    end_group_of_copies();
  };

  const int warp = thread / kWarp, lane = thread % kWarp, group = lane / 4, pair = lane % 4;
  const int inner_warp = warp % T::kWarpInner, column_warp = warp / T::kWarpInner % T::kWarpColumns,
            row_warp = warp / (T::kWarpInner * T::kWarpColumns);
  const int row = row_warp * T::kRowTiles * kTileRows + group,
            column = column_warp * T::kColumnTiles * kTileColumns + group;
  float sum[T::kRowTiles][T::kColumnTiles][4] = {};
#pragma unroll 1
  for (int stage = 1 - kStages; stage < stages; ++stage) {
    if (stage >= 0) {
      wait_for_copies(kStages - 2);
      __syncthreads();  // the copies of all threads are there, and the next stage's place is free
    }
    start(stage + kStages - 1);
    if (stage < 0) continue;
    const float* const place = work + stage % kStages * kStageFloats;
    const float* const scale = place + A::kFloats + B::kFloats;
    // Tensor cores truncate their sums. For float32 accuracy they only add up a stage, which is then added with
    // rounding (Ootomo & Yokota 2022).
    float of_stage[T::kRowTiles][T::kColumnTiles][4] = {};
#pragma unroll
    for (int step = 0; step < T::kSteps; ++step) {
      const int inner = (inner_warp * T::kSteps + step) * kTileInner + pair;
      const auto at_a = [&](int r, int k) { return place[kAlongA ? r * A::kStride + k : k * A::kStride + r]; };
      const auto at_b = [&](int k, int c) {
        return place[A::kFloats + (kAlongB ? c * B::kStride + k : k * B::kStride + c)];
      };
      float of_a[T::kRowTiles][4], of_b[T::kColumnTiles][2];
#pragma unroll
      for (int r = 0; r < T::kRowTiles; ++r) {
#pragma unroll
        for (int i = 0; i < 4; ++i) {
          const int k = inner + i / 2 * 4;
          of_a[r][i] = at_a(row + r * kTileRows + i % 2 * 8, k);
          if (kScaled) of_a[r][i] *= scale[k];
        }
      }
#pragma unroll
      for (int c = 0; c < T::kColumnTiles; ++c) {
#pragma unroll
        for (int i = 0; i < 2; ++i) of_b[c][i] = at_b(inner + i * 4, column + c * kTileColumns);
      }
      multiply<kProducts>(kProducts == 3 ? of_stage : sum, of_a, of_b);
    }
    if (kProducts == 3) {
#pragma unroll
      for (int r = 0; r < T::kRowTiles; ++r) {
#pragma unroll
        for (int c = 0; c < T::kColumnTiles; ++c) {
#pragma unroll
          for (int i = 0; i < 4; ++i) sum[r][c][i] += of_stage[r][c][i];
        }
      }
    }
  }
  wait_for_copies(0);
  __syncthreads();  // all warps have read the operands, in whose place the results are written
  float* const results = work + inner_warp * T::kRows * T::kResultStride;
#pragma unroll
  for (int r = 0; r < T::kRowTiles; ++r) {
#pragma unroll
    for (int c = 0; c < T::kColumnTiles; ++c) {
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const int at = row + r * kTileRows + i / 2 * 8, to = column - group + c * kTileColumns + 2 * pair + i % 2;
        results[at * T::kResultStride + to] = sum[r][c][i];
      }
    }
  }
  __syncthreads();
}

// A thread's elements of a tile: one column, and every kRowStep-th row from the first.
template <class T>
struct TilePart {
  static constexpr int kRowStep = kThreads / T::kColumns, kElements = T::kRows / kRowStep;
  static constexpr int kBatch = kElements < 4 ? kElements : 4;  // whose loads are under way together
  const float* results;
  int first, column;

  __device__ __forceinline__ explicit TilePart(StepView view)
      : results(view.memory->work),
        first(static_cast<int>(threadIdx.x) / T::kColumns),
        column(static_cast<int>(threadIdx.x) % T::kColumns) {}

  __device__ __forceinline__ int row(int element) const { return first + element * kRowStep; }

  // The sum over the warps that divided the inner size, in a fixed order.
  __device__ __forceinline__ float value(int element) const {
    float sum = 0.0f;
#pragma unroll
    for (int w = 0; w < T::kWarpInner; ++w) {
      sum += results[(w * T::kRows + row(element)) * T::kResultStride + column];
    }
    return sum;
  }
};

}  // namespace IWAE_ISA
}  // namespace iwae
