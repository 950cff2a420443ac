// How the formulas are compiled: within each translation unit; CUDA adds its own words for host and device.
#pragma once

#ifndef IWAE_INLINE
#define IWAE_INLINE static inline
#endif
