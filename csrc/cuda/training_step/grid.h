// A launch whose blocks all run at the same time, their barrier, and the memory through which they exchange results.
//
// The emulator defines the same functions, and reports an access that no barrier orders after another block's write.
#pragma once

#include "../async.h"
#include "../cluster.h"

#ifdef __CUDACC__

// A function that is called, not copied into its callers: the kernel has many, and instructions must fit their cache.
#define IWAE_NOT_INLINED static __device__ __noinline__

namespace iwae {
namespace IWAE_ISA {

// Numbers that other blocks wrote before the last barrier, read from the second-level cache, which all blocks share.
__device__ __forceinline__ float read_global(const float* address) { return __ldcg(address); }

__device__ __forceinline__ void write_global(float* address, float value) { __stcg(address, value); }

// Starts a copy to shared memory of `present` of 4 bytes, and zeros for those that are not.
__device__ __forceinline__ void copy_four(float* to, const float* from, int present) {
  const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared), "l"(from), "r"(present) : "memory");
}

// The same for 16 aligned bytes.
__device__ __forceinline__ void copy_part(float* to, const float* from, int present) {
  const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared), "l"(from), "r"(present) : "memory");
}

// The barrier of all blocks: what any thread has written before it is read by all threads after it. A block arrives by
// an addition that releases the block's writes, and waits by loads that acquire those of the others.
class GridBarrier {
 public:
  __device__ __forceinline__ explicit GridBarrier(unsigned* counter) : counter_(counter) {}

  __device__ __forceinline__ void wait() {
    target_ += gridDim.x;
    __syncthreads();
    if (threadIdx.x == 0) {
      __threadfence();
      asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter_) : "memory");
      unsigned arrived;
      do {
        asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(arrived) : "l"(counter_) : "memory");
      } while (static_cast<int>(arrived - target_) < 0);
      __threadfence();
    }
    __syncthreads();
  }

 private:
  unsigned* counter_;  // 0 before the launch
  unsigned target_ = 0;
};

// Returns true if the current device runs cooperative launches.
inline bool has_cooperative_launch() {
  int cooperative = 0;
  check(cudaDeviceGetAttribute(&cooperative, cudaDevAttrCooperativeLaunch, current_device()));
  return cooperative != 0;
}

// The number of blocks that the current device runs at the same time.
inline int resident_blocks(const void* kernel, int64_t shared_bytes) {
  int blocks = 0, processors = 0;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_bytes)));
  check(cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, kernel, kThreads, static_cast<size_t>(shared_bytes)));
  check(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, current_device()));
  if (blocks == 0) throw std::runtime_error("CUDA: no block of the training step fits on a multiprocessor");
  return blocks * processors;
}

// Launches as many blocks as run at the same time; `counter` is that of their barrier.
template <class... Parameters, class... Arguments>
void launch_cooperative(void (*kernel)(Parameters...), int64_t shared_bytes, unsigned* counter, void* stream,
                        const Arguments&... arguments) {
  const int blocks = resident_blocks(reinterpret_cast<const void*>(kernel), shared_bytes);
  check(cudaMemsetAsync(counter, 0, sizeof *counter, static_cast<cudaStream_t>(stream)));
  cudaLaunchAttribute cooperative = {};
  cooperative.id = cudaLaunchAttributeCooperative;
  cooperative.val.cooperative = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = dim3(static_cast<unsigned>(blocks));
  config.blockDim = dim3(kThreads);
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = &cooperative;
  config.numAttrs = 1;
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

}  // namespace IWAE_ISA
}  // namespace iwae

#endif
