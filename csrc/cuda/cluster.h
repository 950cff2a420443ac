// Clusters of blocks, which run at the same time and write to each other's shared memory (from sm_90 on).
//
// The emulator defines the same functions.
#pragma once

#include "device.h"

#ifdef __CUDACC__

#include <map>
#include <mutex>
#include <tuple>

namespace iwae {
namespace IWAE_ISA {

// The shared memory of a small block, of which three fit a multiprocessor, and of a large block, which has one to
// itself.
constexpr int64_t kSmallBlockBytes = 74 << 10, kLargeBlockBytes = 227 << 10;
constexpr int kSmallBlocks = 3;
constexpr int kManyClusters = 1024;     // more than any GPU runs at once
constexpr int kMostBlocksACluster = 8;  // the most that every GPU with clusters allows

__device__ __forceinline__ int cluster_rank() {
  unsigned rank = 0;
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
#endif
  return static_cast<int>(rank);
}

// The two halves of the cluster's barrier: what a thread has written before it arrives is seen after the wait. Arriving
// waits for all stores of the thread, so kernels use it once, before they have stored anything.
__device__ __forceinline__ void arrive_at_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.arrive.release;" ::: "memory");
#endif
}
__device__ __forceinline__ void wait_for_cluster() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("barrier.cluster.wait.acquire;" ::: "memory");
#endif
}

// A mailbox in a block's shared memory counts the bytes that the blocks of the cluster store beside it. It is used in
// rounds: one thread of the block says how many bytes the next round has, any thread waits for them. Stores into
// another block cost no barrier, and do not wait for the stores to global memory that are under way.
using Mailbox = uint64_t;

__device__ __forceinline__ unsigned in_shared(const void* place) {
  return static_cast<unsigned>(__cvta_generic_to_shared(place));
}

// Called by one thread, before the cluster's first barrier.
__device__ __forceinline__ void open_mailbox(Mailbox* mailbox) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(in_shared(mailbox)));
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
#endif
}

// Called by one thread per round.
__device__ __forceinline__ void expect_bytes(Mailbox* mailbox, int bytes) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(in_shared(mailbox)), "r"(bytes)
               : "memory");
#endif
}

// Waits for the bytes of a round of this parity: 0 for the first, then alternating.
__device__ __forceinline__ void wait_for_mail(Mailbox* mailbox, int parity) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  unsigned done = 0;
  while (done == 0) {
    asm volatile(
        "{\n"
        ".reg .pred arrived;\n"
        "mbarrier.try_wait.parity.shared::cta.b64 arrived, [%1], %2;\n"
        "selp.u32 %0, 1, 0, arrived;\n"
        "}"
        : "=r"(done)
        : "r"(in_shared(mailbox)), "r"(parity)
        : "memory");
  }
#endif
}

// Stores a float into the block `rank`, at the place that `own` has in this block, and tells its mailbox.
__device__ __forceinline__ void send(float* own, Mailbox* mailbox, int rank, float value) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 900
  unsigned place, counter;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(place) : "r"(in_shared(own)), "r"(rank));
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(counter) : "r"(in_shared(mailbox)), "r"(rank));
  asm volatile("st.async.shared::cluster.mbarrier::complete_tx::bytes.b32 [%0], %1, [%2];" ::"r"(place),
               "r"(__float_as_uint(value)), "r"(counter)
               : "memory");
#endif
}

// Returns true if the current device runs clusters of blocks that have the shared memory of a large block.
inline bool has_clusters() {
  static std::mutex mutex;
  static std::map<int, bool> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const int device = current_device();
  const auto found = known.find(device);
  if (found != known.end()) return found->second;
  int clusters = 0, bytes = 0;
  check(cudaDeviceGetAttribute(&clusters, cudaDevAttrClusterLaunch, device));
  check(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device));
  return known[device] = clusters != 0 && bytes >= kLargeBlockBytes;
}

// The number of clusters that the current device runs at the same time. The answer is kept, since asking the driver
// takes longer than a launch.
inline int resident_clusters(const void* kernel, cudaLaunchConfig_t config) {
  static std::mutex mutex;
  static std::map<std::tuple<int, const void*, int, size_t>, int> known;
  const std::lock_guard<std::mutex> lock(mutex);
  const auto key = std::make_tuple(current_device(), kernel, static_cast<int>(config.attrs->val.clusterDim.x),
                                   config.dynamicSmemBytes);
  const auto found = known.find(key);
  if (found != known.end()) return found->second;
  check(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(kLargeBlockBytes)));
  int clusters = 0;
  check(cudaOccupancyMaxActiveClusters(&clusters, kernel, &config));
  if (clusters == 0) throw std::runtime_error("CUDA: no cluster of the kernel fits on the device");
  return known[key] = clusters;
}

// Launches as many clusters of `blocks` blocks as the device runs at the same time, at most `most`.
template <class... Parameters, class... Arguments>
void launch_clusters(void (*kernel)(Parameters...), int threads, int64_t most, int blocks, int64_t shared_bytes,
                     void* stream, const Arguments&... arguments) {
  if (most == 0) return;
  cudaLaunchAttribute attributes[2] = {};
  cudaLaunchAttribute& size = attributes[0];
  size.id = cudaLaunchAttributeClusterDimension;
  size.val.clusterDim.x = static_cast<unsigned>(blocks);
  size.val.clusterDim.y = size.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.blockDim = dim3(static_cast<unsigned>(threads));
  config.gridDim = dim3(static_cast<unsigned>(blocks) * kManyClusters);  // of the question below
  config.dynamicSmemBytes = static_cast<size_t>(shared_bytes);
  config.stream = static_cast<cudaStream_t>(stream);
  config.attrs = attributes;
  config.numAttrs = 1;
  const int64_t resident = resident_clusters(reinterpret_cast<const void*>(kernel), config);
  config.gridDim = dim3(static_cast<unsigned>(blocks * (most < resident ? most : resident)));
  overlap_launch(config, attributes);
  check(cudaLaunchKernelEx(&config, kernel, Parameters(arguments)...));
}

}  // namespace IWAE_ISA
}  // namespace iwae

#endif
