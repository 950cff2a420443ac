// A step of Adam for several tensors in one launch, with a block for each chunk of each tensor.
#pragma once

#include "../calls.h"
#include "../math/adam.h"
#include "load.h"
#include "math.h"

namespace iwae {
namespace IWAE_ISA {

constexpr int kTableTensors = 64;  // a launch takes at most 4 KiB of arguments on every GPU

struct TableEntry {
  AdamTensor tensor;
  int32_t first_block;
  bool aligned;  // to 16 bytes
};

// The tensors of a launch. It is passed by value, so a CUDA graph keeps it and no copy to the device is needed.
struct AdamTable {
  int count = 0;
  TableEntry entries[kTableTensors];

  // The tensor to which a block belongs.
  __device__ __forceinline__ int find(int block) const {
    int low = 0, high = count;
    while (high - low > 1) {
      const int middle = (low + high) / 2;
      if (entries[middle].first_block <= block) {
        low = middle;
      } else {
        high = middle;
      }
    }
    return low;
  }
};

// The arguments of a step besides the tensors.
struct AdamPlan {
  AdamSettings settings;
  const char* rate;  // null: that of the settings
  DType rate_dtype;
  const float* scale;
  const float* found_inf;
  const double* squares;
  int64_t squares_count;
  unsigned* turns;
};
static_assert(sizeof(AdamTable) + sizeof(AdamPlan) <= 4096, "the arguments of a launch have at most 4 KiB");

// A thread's part of a chunk: as many numbers as it loads 16 bytes at a time.
template <class Storage>
struct ChunkPart {
  using Layout = Vector<Storage>;
  static constexpr int kWidth = Layout::kWidth, kParts = static_cast<int>(kChunk / kThreads) / kWidth;

  // The offset in the chunk of the thread's part.
  __device__ __forceinline__ static int64_t offset(int part) {
    return (static_cast<int64_t>(part) * kThreads + threadIdx.x) * kWidth;
  }
  __device__ __forceinline__ static View view(void* data) {
    return {static_cast<char*>(data), dtype_of<Storage>(), 1, false, false};
  }
};

// Returns true in the last block that calls it; all blocks have then read what they read before the call.
__device__ __forceinline__ bool takes_last_turn(unsigned* turns) {
  __threadfence();
  return atomicAdd(turns, 1u) + 1u == gridDim.x;
}

template <class T, class Storage>
IWAE_KERNEL adam_kernel(const AdamTable table, const AdamPlan plan) {
  begin_kernel();
  using Part = ChunkPart<Storage>;
  using Layout = typename Part::Layout;
  __shared__ AdamCoefficients<T> shared;
  __shared__ bool last;
  __shared__ double sums[kThreads / kWarp];
  if (plan.found_inf != nullptr && *plan.found_inf != 0.0f) return;
  const int index = table.find(static_cast<int>(blockIdx.x));
  const TableEntry& entry = table.entries[index];
  const AdamTensor& tensor = entry.tensor;
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) - entry.first_block) * kChunk;
  const View views[4] = {Part::view(tensor.parameter), Part::view(tensor.gradient), Part::view(tensor.first),
                         Part::view(tensor.second)};

  // All loads are issued before the coefficients are computed, which takes about as long as a load.
  typename Layout::Raw raw[Part::kParts][4];
#pragma unroll
  for (int part = 0; part < Part::kParts; ++part) {
    const int64_t at = begin + Part::offset(part);
    if (!entry.aligned || at + Part::kWidth > tensor.size) continue;
#pragma unroll
    for (int which = 0; which < 4; ++which) {
      raw[part][which] = Layout::load_from(views[which].data, views[which], 0, at);
    }
  }

  const double scale = plan.scale != nullptr ? static_cast<double>(*plan.scale) : 1.0;
  double squares = 0.0;
  if (plan.settings.clips) {
    for (int64_t i = threadIdx.x; i < plan.squares_count; i += kThreads) squares += plan.squares[i];
    squares = over_block(squares, sums, [](double x, double y) { return x + y; });
  }
  if (threadIdx.x == 0) {
    const double rate = plan.rate != nullptr ? load_one<double>(plan.rate, plan.rate_dtype, 0) : plan.settings.rate;
    const double taken = *tensor.step;
    const bool turn = takes_last_turn(plan.turns);  // on its way while the coefficients are computed
    shared = adam_coefficients<T>(plan.settings, taken, rate, scale, squares);
    last = turn;
  }
  __syncthreads();

#pragma unroll
  for (int part = 0; part < Part::kParts; ++part) {
    const int64_t at = begin + Part::offset(part);
    if (entry.aligned && at + Part::kWidth <= tensor.size) {
      T values[4][Part::kWidth], unscaled[Part::kWidth];
#pragma unroll
      for (int which = 0; which < 4; ++which) Layout::convert(views[which], raw[part][which], values[which]);
#pragma unroll
      for (int i = 0; i < Part::kWidth; ++i) {
        unscaled[i] = values[1][i] / static_cast<T>(scale);
        adam_update<Math<T>>(shared, values[1][i], values[0][i], values[2][i], values[3][i]);
      }
      Layout::store(views[0], 0, at, values[0]);
      if (plan.scale != nullptr) Layout::store(views[1], 0, at, unscaled);
      Layout::store(views[2], 0, at, values[2]);
      Layout::store(views[3], 0, at, values[3]);
      continue;
    }
    for (int64_t i = at; i < at + Part::kWidth && i < tensor.size; ++i) {
      T values[4];
#pragma unroll
      for (int which = 0; which < 4; ++which) values[which] = load_one<T>(views[which].data, dtype_of<Storage>(), i);
      if (plan.scale != nullptr) store_one(views[1].data, dtype_of<Storage>(), i, values[1] / static_cast<T>(scale));
      adam_update<Math<T>>(shared, values[1], values[0], values[2], values[3]);
      store_one(views[0].data, dtype_of<Storage>(), i, values[0]);
      store_one(views[2].data, dtype_of<Storage>(), i, values[2]);
      store_one(views[3].data, dtype_of<Storage>(), i, values[3]);
    }
  }

  // Every block has read the steps: they can be counted without another launch.
  if (!last) return;
  __threadfence();
  for (int i = static_cast<int>(threadIdx.x); i < table.count; i += kThreads) *table.entries[i].tensor.step += 1.0f;
  if (threadIdx.x == 0) *plan.turns = 0;
}

// The sum of the squares of each chunk's gradients, in an order that is the same at every launch.
template <class T, class Storage>
IWAE_KERNEL sum_squares_kernel(const AdamTable table, double* squares) {
  begin_kernel();
  using Part = ChunkPart<Storage>;
  using Layout = typename Part::Layout;
  __shared__ double sums[kThreads / kWarp];
  const TableEntry& entry = table.entries[table.find(static_cast<int>(blockIdx.x))];
  const View view = Part::view(entry.tensor.gradient);
  const int64_t begin = (static_cast<int64_t>(blockIdx.x) - entry.first_block) * kChunk, size = entry.tensor.size;
  double sum = 0.0;
#pragma unroll
  for (int part = 0; part < Part::kParts; ++part) {
    const int64_t at = begin + Part::offset(part);
    T values[Part::kWidth];
    if (entry.aligned && at + Part::kWidth <= size) {
      Layout::convert(view, Layout::load_from(view.data, view, 0, at), values);
    } else {
#pragma unroll
      for (int i = 0; i < Part::kWidth; ++i) {
        values[i] = at + i < size ? load_one<T>(view.data, dtype_of<Storage>(), at + i) : T(0);
      }
    }
#pragma unroll
    for (int i = 0; i < Part::kWidth; ++i) sum += static_cast<double>(values[i]) * static_cast<double>(values[i]);
  }
  sum = over_block(sum, sums, [](double x, double y) { return x + y; });
  if (threadIdx.x == 0) squares[blockIdx.x] = sum;
}

// Calls body(table, blocks) for as many tensors at a time as a table has room for.
template <class Body>
void for_tables(const AdamTensor* tensors, int64_t count, const Body& body) {
  for (int64_t begin = 0; begin < count; begin += kTableTensors) {
    AdamTable table;
    int64_t blocks = 0;
    for (int64_t i = begin; i < count && table.count < kTableTensors; ++i) {
      const AdamTensor& tensor = tensors[i];
      const uintptr_t addresses = reinterpret_cast<uintptr_t>(tensor.parameter) |
                                  reinterpret_cast<uintptr_t>(tensor.gradient) |
                                  reinterpret_cast<uintptr_t>(tensor.first) |
                                  reinterpret_cast<uintptr_t>(tensor.second);
      table.entries[table.count++] = {tensor, static_cast<int32_t>(blocks), addresses % 16 == 0};
      blocks += chunks_of(tensor.size);
    }
    body(table, blocks);
  }
}

template <class T, class Storage>
void adam(const AdamCall& call) {
  const AdamPlan plan = {call.settings, call.rate.data, call.rate.dtype,    call.scale,
                         call.found_inf, call.squares,  call.squares_count, static_cast<unsigned*>(call.turns)};
  for_tables(call.tensors, call.count, [&](const AdamTable& table, int64_t blocks) {
    launch(adam_kernel<T, Storage>, blocks, 0, call.cuda_stream, table, plan);
  });
}

template <class T, class Storage>
void sum_squares(const SquaresCall& call) {
  double* squares = call.squares;
  for_tables(call.tensors, call.count, [&](const AdamTable& table, int64_t blocks) {
    launch(sum_squares_kernel<T, Storage>, blocks, 0, call.cuda_stream, table, squares);
    squares += blocks;
  });
}

}  // namespace IWAE_ISA
}  // namespace iwae
