// Many training steps in one launch: every block walks the plan's phases, takes its items, and waits at the barrier of
// all blocks.
#pragma once

#include "finish.h"
#include "product.h"
#include "sampling.h"
#include "update.h"
#include "weights.h"

namespace iwae {
namespace IWAE_ISA {

template <class T, int kProducts>
__device__ __forceinline__ void run_product(const TrainingTask& task, StepView view, int item) {
  switch (static_cast<TaskKind>(task.kind)) {
    case TaskKind::kForward: multiply_tile<T, true, true, false, kProducts>(task, view, item); break;
    case TaskKind::kBackward: multiply_tile<T, true, false, false, kProducts>(task, view, item); break;
    default:
      if constexpr (T::kWarpInner == 1) multiply_tile<T, false, false, true, kProducts>(task, view, item);
  }
  finish_tile<T>(task, view, item);
}

template <int kProducts>
__device__ __forceinline__ void run_item(const TrainingTask& task, StepView view, int item) {
  switch (static_cast<TaskKind>(task.kind)) {
    case TaskKind::kPixels: return draw_pixels(task, view, item);
    case TaskKind::kCoefficients: return compute_coefficients(view);
    case TaskKind::kSample: return sample_rows(task, view, item);
    case TaskKind::kWeights: return weigh_observation(task, view, item);
    case TaskKind::kPosterior: return posterior_gradient(task, view, item);
    case TaskKind::kUpdate: return update_layer(task, view, item);
    default: break;
  }
  switch (static_cast<TileShape>(task.shape)) {
    case TileShape::kWide: return run_product<WideTiles, kProducts>(task, view, item);
    case TileShape::kFlat: return run_product<FlatTiles, kProducts>(task, view, item);
    case TileShape::kThin: return run_product<ThinTiles, kProducts>(task, view, item);
  }
}

template <int kProducts>
IWAE_KERNEL training_kernel(const TrainingRun given) {
  begin_kernel();
  BlockMemory* const memory = dynamic_shared<BlockMemory>();
  const int64_t* const ends = program_words(memory);
  const int size = static_cast<int>(given.program.size());
  for (int i = static_cast<int>(threadIdx.x); i < size; i += kThreads) {
    reinterpret_cast<int64_t*>(memory + 1)[i] = given.program.words[i];
  }
  if (threadIdx.x == 0) memory->run = given;
  __syncthreads();
  StepView view = {memory, -1};
  const TrainingTask* const tasks =
      reinterpret_cast<const TrainingTask*>(view.tensors() + given.program.tensors);
  const int phases = given.program.phases;
  GridBarrier barrier(given.counter);
  // Before the first step, only the pixels of the last phase are drawn.
#pragma unroll 1
  for (; view.step < given.steps; ++view.step) {
#pragma unroll 1
    for (int phase = view.step < 0 ? phases - 1 : 0; phase < phases; ++phase) {
      int item = static_cast<int>(blockIdx.x);
#pragma unroll 1
      for (int i = phase > 0 ? static_cast<int>(ends[phase - 1]) : 0; i < static_cast<int>(ends[phase]); ++i) {
        const TrainingTask& task = tasks[i];
        const int items = static_cast<int>(task.items);
        if (view.step < 0 && static_cast<TaskKind>(task.kind) != TaskKind::kPixels) continue;
#pragma unroll 1
        for (; item < items; item += static_cast<int>(gridDim.x)) run_item<kProducts>(task, view, item);
        item -= items;
      }
      barrier.wait();
    }
  }
}

inline void training_steps(const TrainingCall& call) {
  const TrainingRun run = call;
  if (run.steps == 0) return;
  const int64_t bytes = sizeof(BlockMemory) + 8 * run.program.size();
  call.tf32 ? launch_cooperative(training_kernel<1>, bytes, run.counter, call.cuda_stream, run)
            : launch_cooperative(training_kernel<3>, bytes, run.counter, call.cuda_stream, run);
}

}  // namespace IWAE_ISA
}  // namespace iwae
