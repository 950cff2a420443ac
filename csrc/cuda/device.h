// CUDA primitives used by the kernels: qualifiers, launch, shared memory.
//
// Tests implement them for a CPU's compiler (tests/cuda_emulator/emulator.h), and so run these kernels without a GPU.
#pragma once

#include <cstdint>

#include "../math/inline.h"

namespace iwae {
namespace IWAE_ISA {

constexpr int kThreads = 256;  // threads of every block
constexpr int kWarpLog2 = 5, kWarp = 1 << kWarpLog2;
constexpr unsigned kAllLanes = 0xffffffffu;

}  // namespace IWAE_ISA
}  // namespace iwae

#ifdef __CUDACC__

#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

namespace iwae {
namespace IWAE_ISA {

// The number of threads that fill a large GPU, and the number of observations, one block each, that gives every
// multiprocessor about two blocks.
constexpr int64_t kManyThreads = 1 << 17, kManyObservations = 256;

// Two blocks for each multiprocessor: with fewer, the samples of a column are divided among blocks.
constexpr int64_t kFewBlocks = 264;
constexpr int kHeld = 8;  // log-weights of a column that a thread loads at once

// Two blocks per multiprocessor leave 128 registers to a thread.
#define IWAE_KERNEL static __global__ void __launch_bounds__(kThreads, 2)
#define IWAE_BOUNDED_KERNEL(threads, blocks) static __global__ void __launch_bounds__(threads, blocks)

inline void check(cudaError_t error) {
  if (error != cudaSuccess) throw std::runtime_error(std::string("CUDA: ") + cudaGetErrorString(error));
}

inline int current_device() {
  int device = 0;
  check(cudaGetDevice(&device));
  return device;
}

// The first statement of every kernel. On GPUs from sm_90 on, a kernel is launched as soon as every block of the one
// before it in the stream has begun, and waits here until that one has ended and its memory is visible: only the work
// of the launch itself overlaps (programmatic dependent launch). So no memory may be read or written before this line.
__device__ __forceinline__ void begin_kernel() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  cudaTriggerProgrammaticLaunchCompletion();
  cudaGridDependencySynchronize();
#endif
}

// Allows a launch to begin before the kernel ahead of it in the stream has ended, where the current device can do so.
// A capture into a CUDA graph keeps it.
inline void overlap_launch(cudaLaunchConfig_t& config, cudaLaunchAttribute* attributes) {
  int major = 0;
  check(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, current_device()));
  config.attrs = attributes;
  if (major < 9) return;
  cudaLaunchAttribute& overlap = attributes[config.numAttrs++];
  overlap.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  overlap.val.programmaticStreamSerializationAllowed = 1;
}

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int64_t shared_bytes, void* stream,
            const Arguments&... arguments) {
  if (blocks == 0) return;
  if (blocks > INT32_MAX) throw std::length_error("the call is too large: it needs more than 2^31 - 1 blocks");
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  cudaLaunchAttribute attribute = {};
  overlap_launch(config, &attribute);
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

// An address of 16 bytes that are read or written together; the emulator checks that it is aligned.
template <class T>
__device__ __forceinline__ T* aligned_to_16(T* address) {
  return address;
}

// Shared memory whose size is given at the launch.
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

// Division of numbers that rarely exceed 32 bits: a 64-bit division takes about a hundred instructions on a GPU.
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

// A team: neighboring lanes of a warp; their number is a power of two.
struct Team {
  int lanes, lane;
  int64_t index;  // among all teams of the launch

  __device__ __forceinline__ explicit Team(int lanes_log2)
      : lanes(1 << lanes_log2),
        lane(static_cast<int>(threadIdx.x) & (lanes - 1)),
        index(static_cast<int64_t>(blockIdx.x) * (kThreads >> lanes_log2) + (threadIdx.x >> lanes_log2)) {}

  // All lanes of the warp must call it; every lane of a team gets the team's sum.
  __device__ __forceinline__ double sum(double x) const {
    for (int distance = lanes / 2; distance > 0; distance /= 2) x += __shfl_xor_sync(kAllLanes, x, distance);
    return x;
  }
};

// The sum over the threads of a block, returned to all of them; `place` has room for one number per warp.
template <class T, class Operation>
__device__ __forceinline__ T over_block(T x, T* place, const Operation& operation) {
  for (int distance = kWarp / 2; distance > 0; distance /= 2) {
    x = operation(x, __shfl_xor_sync(kAllLanes, x, distance));
  }
  __syncthreads();  // `place` may still be read from an earlier use
  if (threadIdx.x % kWarp == 0) place[threadIdx.x / kWarp] = x;
  __syncthreads();
  x = place[0];
  for (int warp = 1; warp < kThreads / kWarp; ++warp) x = operation(x, place[warp]);
  return x;
}

}  // namespace IWAE_ISA
}  // namespace iwae
