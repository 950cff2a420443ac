// Adam within a step: its coefficients, and the update of a layer's weight and bias from their gradient.
//
// The gradient of a layer is one matrix (outputs, inputs + 1), whose last column is that of the bias.
#pragma once

#include "product.h"

namespace iwae {
namespace IWAE_ISA {

constexpr int kCoefficients = sizeof(AdamCoefficients<float>) / sizeof(float);
constexpr int kUpdateElements = 4;  // of a thread, whose loads are under way together

// A thread for each tensor: the coefficients of this step, and the count of the steps taken.
IWAE_NOT_INLINED void compute_coefficients(StepView view) {
  const TrainingRun& run = view.run();
  for (int i = static_cast<int>(threadIdx.x); i < run.program.tensors; i += kThreads) {
    float* const count = floats(view.tensors()[i].step);
    const float taken = read_global(count);
    const double rate = static_cast<double>(read_global(run.inputs.rates + view.step));
    const AdamCoefficients<float> made = adam_coefficients<float>(run.adam, taken, rate, 1.0, 0.0);
    const float* const numbers = reinterpret_cast<const float*>(&made);
#pragma unroll
    for (int j = 0; j < kCoefficients; ++j) write_global(run.coefficients + i * kCoefficients + j, numbers[j]);
    write_global(count, taken + 1.0f);
  }
}

// Brings the coefficients of a layer's weight and bias to the block's memory.
__device__ __forceinline__ void load_coefficients(const TrainingTask& task, StepView view) {
  const int thread = static_cast<int>(threadIdx.x);
  if (thread < kLayerTensors * kCoefficients) {
    const float* const from = view.run().coefficients + task.layer * kCoefficients;
    reinterpret_cast<float*>(view.memory->coefficients)[thread] = read_global(from + thread);
  }
  __syncthreads();
}

// An element of a layer's gradient.
struct GradientElement {
  int row, column;
  float gradient;
  bool present;
};

// Updates some elements: all their loads come first.
template <int kCount>
__device__ __forceinline__ void update_elements(const TrainingTask& task, StepView view,
                                                const GradientElement (&elements)[kCount]) {
  const int inputs = static_cast<int>(task.columns) - 1;
  float parameter[kCount], first[kCount], second[kCount];
  const auto place = [&](const GradientElement& element, const TrainingTensor*& tensor) {
    const bool is_bias = element.column == inputs;
    tensor = view.tensors() + task.layer + is_bias;
    return is_bias ? static_cast<int64_t>(element.row) : static_cast<int64_t>(element.row) * inputs + element.column;
  };
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (!elements[i].present) continue;
    const TrainingTensor* tensor;
    const int64_t at = place(elements[i], tensor);
    parameter[i] = read_global(floats(tensor->parameter) + at);
    first[i] = read_global(floats(tensor->first) + at);
    second[i] = read_global(floats(tensor->second) + at);
  }
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    if (!elements[i].present) continue;
    const TrainingTensor* tensor;
    const int64_t at = place(elements[i], tensor);
    adam_update<Math<float>>(view.memory->coefficients[elements[i].column == inputs], elements[i].gradient,
                             parameter[i], first[i], second[i]);
    write_global(floats(tensor->parameter) + at, parameter[i]);
    write_global(floats(tensor->first) + at, first[i]);
    write_global(floats(tensor->second) + at, second[i]);
  }
}

// Updates a layer by a tile of its gradient.
template <class T>
__device__ __forceinline__ void update_tile(const TrainingTask& task, StepView view, const TilePart<T>& part,
                                            const TileOfItem<T>& tile) {
  constexpr int kBatch = TilePart<T>::kBatch;
  const int column = tile.column + part.column;
#pragma unroll 1
  for (int from = 0; from < TilePart<T>::kElements; from += kBatch) {
    GradientElement elements[kBatch];
#pragma unroll
    for (int i = 0; i < kBatch; ++i) {
      const int row = tile.row + part.row(from + i);
      elements[i] = {row, column, part.value(from + i), row < task.rows && column < task.columns};
    }
    update_elements(task, view, elements);
  }
}

// Updates kThreads x kUpdateElements elements of a layer, by the sum of the parts of their gradient.
IWAE_NOT_INLINED void update_layer(const TrainingTask& task, StepView view, int item) {
  load_coefficients(task, view);
  const int columns = static_cast<int>(task.columns), rows = static_cast<int>(task.rows);
  const int64_t begin = static_cast<int64_t>(item) * kThreads * kUpdateElements + threadIdx.x;
  GradientElement elements[kUpdateElements];
#pragma unroll
  for (int i = 0; i < kUpdateElements; ++i) {
    const int at = static_cast<int>(begin) + i * kThreads, row = at / columns;
    elements[i] = {row, at - row * columns, 0.0f, row < rows};
  }
  const float* from = floats(task.a);
#pragma unroll 1
  for (int part = 0; part < task.parts; ++part, from += task.out_part) {
#pragma unroll
    for (int i = 0; i < kUpdateElements; ++i) {
      if (elements[i].present) {
        elements[i].gradient += read_global(from + elements[i].row * task.a_stride + elements[i].column);
      }
    }
  }
  update_elements(task, view, elements);
  __syncthreads();  // the coefficients may be replaced
}

}  // namespace IWAE_ISA
}  // namespace iwae
