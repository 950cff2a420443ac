// What the items of a training step share: the memory of their block and the state of the run.
#pragma once

#include "../../calls.h"
#include "../../math/adam.h"
#include "../math.h"
#include "grid.h"

namespace iwae {
namespace IWAE_ISA {

// Reserved for operands and results of products, and for what other items exchange between their threads.
constexpr int kWorkFloats = 3 * 5376;
constexpr int kLayerTensors = 2;  // a layer has a weight and a bias

// A block's shared memory; the program follows it.
struct BlockMemory {
  alignas(16) float work[kWorkFloats];
  double sums[kThreads / kWarp];
  AdamCoefficients<float> coefficients[kLayerTensors];
  TrainingRun run;
};

// The program in a block's shared memory.
__device__ __forceinline__ const int64_t* program_words(const BlockMemory* memory) {
  return reinterpret_cast<const int64_t*>(memory + 1);
}

// The view that an item has of its block and step; passed in registers.
struct StepView {
  BlockMemory* memory;
  int step;

  __device__ __forceinline__ const TrainingRun& run() const { return memory->run; }
  __device__ __forceinline__ bool odd() const { return step & 1; }
  __device__ __forceinline__ const TrainingTensor* tensors() const {
    return reinterpret_cast<const TrainingTensor*>(program_words(memory) + run().program.phases);
  }
};

__device__ __forceinline__ float* floats(int64_t address) { return reinterpret_cast<float*>(address); }

// The address of an operand in an odd or an even step.
__device__ __forceinline__ float* floats(int64_t address, int64_t parity, bool odd) {
  return floats(address) + (odd ? parity : 0);
}

__device__ __forceinline__ int least(int x, int y) { return x < y ? x : y; }

}  // namespace IWAE_ISA
}  // namespace iwae
