// Qualifiers of shared functions: one copy per translation unit, and with nvcc for host and device.
#pragma once

#ifdef __CUDACC__
#define IWAE_EVERYWHERE __host__ __device__ __forceinline__
#else
#define IWAE_EVERYWHERE inline
#endif

#ifndef IWAE_INLINE
#define IWAE_INLINE static IWAE_EVERYWHERE
#endif
