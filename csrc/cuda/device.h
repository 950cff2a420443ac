// What the kernels need of CUDA: its words, a launch, shared memory.
//
// Tests give the same to a CPU's compiler (tests/cuda_emulator/emulator.h), and so run these very kernels where there is
// no GPU.
#pragma once

#include <cstdint>

#include "../math/inline.h"

namespace iwae {
namespace IWAE_ISA {

constexpr int kThreads = 256;  // of every block
constexpr int kWarp = 32;
constexpr unsigned kAllLanes = 0xffffffffu;

}  // namespace IWAE_ISA
}  // namespace iwae

#ifdef __CUDACC__

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace iwae {
namespace IWAE_ISA {

// Of a call: as many threads as fill a large GPU, and observations of which each has a block, two for each multiprocessor.
constexpr int64_t kManyThreads = 1 << 17, kManyObservations = 256;

// With two blocks a multiprocessor, of 128 registers a thread, enough loads are under way to fill its memory.
#define IWAE_KERNEL static __global__ void __launch_bounds__(kThreads, 2)

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int64_t shared_bytes, void* stream,
            const Arguments&... arguments) {
  if (blocks == 0) return;
  if (blocks > INT32_MAX) throw std::length_error("the call is too large: it needs more than 2^31 - 1 blocks");
  kernel<<<static_cast<unsigned>(blocks), kThreads, static_cast<size_t>(shared_bytes),
           static_cast<cudaStream_t>(stream)>>>(arguments...);
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

// Whose size the launch gives.
template <class T>
__device__ __forceinline__ T* dynamic_shared() {
  extern __shared__ double memory[];
  return reinterpret_cast<T*>(memory);
}

}  // namespace IWAE_ISA
}  // namespace iwae

#else

#include "emulator.h"

#endif

namespace iwae {
namespace IWAE_ISA {

IWAE_INLINE int64_t ceil_divide(int64_t number, int64_t divisor) { return (number + divisor - 1) / divisor; }

// Of numbers that are rarely beyond 32 bits: a GPU divides those of 64 in a hundred instructions.
struct Division {
  int64_t quotient, remainder;
};
IWAE_INLINE Division divide(int64_t number, int64_t divisor) {
  if (((number | divisor) >> 32) == 0) {
    const uint32_t n = static_cast<uint32_t>(number), d = static_cast<uint32_t>(divisor), quotient = n / d;
    return {quotient, n - quotient * d};
  }
  const int64_t quotient = number / divisor;
  return {quotient, number - quotient * divisor};
}

// A power of two of neighbouring lanes of a warp.
struct Team {
  int lanes, lane;
  int64_t index;  // of all teams of the launch

  __device__ __forceinline__ explicit Team(int lanes_log2)
      : lanes(1 << lanes_log2),
        lane(static_cast<int>(threadIdx.x) & (lanes - 1)),
        index(static_cast<int64_t>(blockIdx.x) * (kThreads >> lanes_log2) + (threadIdx.x >> lanes_log2)) {}

  // Every lane of the warp takes part, and every one of a team gets its sum.
  __device__ __forceinline__ double sum(double x) const {
    for (int distance = lanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
    return x;
  }
};

// Over the threads of a block, all of which get the result: `place` has room for one number a warp.
template <class T, class Operation>
__device__ __forceinline__ T over_block(T x, T* place, const Operation& operation) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    x = operation(x, __shfl_xor_sync(kAllLanes, x, distance));
  }
  __syncthreads();  // the place may still be read from an earlier use
  if (threadIdx.x % kWarp == 0) place[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = place[0];
  for (int warp = 1; warp < kThreads / kWarp; ++warp) x = operation(x, place[warp]);
  return x;
}

}  // namespace IWAE_ISA
}  // namespace iwae
