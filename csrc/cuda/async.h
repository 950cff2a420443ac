// Asynchronous copies from global to shared memory, 16 bytes per thread, in groups that complete in order.
//
// A thread sees its own copies after wait_for_copies, and those of others after a barrier that follows their wait.
// The emulator defines the same functions.
#pragma once

#include "device.h"

#ifdef __CUDACC__

namespace iwae {
namespace IWAE_ISA {

// Copies 16 aligned bytes, past the first-level cache.
__device__ __forceinline__ void copy_sixteen(void* to, const void* from) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  const unsigned shared = static_cast<unsigned>(__cvta_generic_to_shared(to));
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(shared), "l"(from) : "memory");
#endif
}

__device__ __forceinline__ void end_group_of_copies() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int kPending>
__device__ __forceinline__ void wait_for_all_copies_but() {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

// Waits until at most `pending` of this thread's groups are under way. The instruction takes a constant: beyond 8 it
// waits for more than it must.
__device__ __forceinline__ void wait_for_copies(int pending) {
  switch (pending) {
    case 0: return wait_for_all_copies_but<0>();
    case 1: return wait_for_all_copies_but<1>();
    case 2: return wait_for_all_copies_but<2>();
    case 3: return wait_for_all_copies_but<3>();
    case 4: return wait_for_all_copies_but<4>();
    case 5: return wait_for_all_copies_but<5>();
    case 6: return wait_for_all_copies_but<6>();
    case 7: return wait_for_all_copies_but<7>();
    default: return wait_for_all_copies_but<8>();
  }
}

}  // namespace IWAE_ISA
}  // namespace iwae

#endif
