// A tensor as the kernels receive it: a pointer, a dtype and strides for the common shape of a call.
#pragma once

#include <cstdint>

namespace iwae {

constexpr int kMaxDims = 8;      // as MAX_DIMS in iwae_fast/backends/marshal.py
constexpr int kMaxParameters = 4;  // tensors of a density; may be raised here alone, at a cost to every call's walks

enum class DType : int { kFloat32 = 0, kFloat64 = 1, kBFloat16 = 2, kFloat16 = 3, kBool = 4, kInt64 = 5 };

// Always inlined, like all code shared by the kernels of several instruction sets: of functions that are not inlined
// the linker keeps one copy, which may use instructions that the processor does not have.
#ifdef __CUDACC__
#define IWAE_SHARED __host__ __device__ __forceinline__
#else
#define IWAE_SHARED inline __attribute__((always_inline))
#endif

IWAE_SHARED int64_t size_of(DType dtype) {
  switch (dtype) {
    case DType::kFloat64:
    case DType::kInt64: return 8;
    case DType::kFloat32: return 4;
    case DType::kBool: return 1;
    default: return 2;
  }
}

struct Operand {
  char* data = nullptr;  // null: not given, or not requested
  DType dtype = DType::kFloat32;
  int64_t strides[kMaxDims] = {};  // in elements, one per axis of the call; 0 where it broadcasts

  IWAE_SHARED explicit operator bool() const { return data != nullptr; }
};

struct Shape {
  int dims = 0;
  int64_t sizes[kMaxDims] = {};

  IWAE_SHARED int64_t count() const {
    int64_t product = 1;
    for (int axis = 0; axis < dims; ++axis) product *= sizes[axis];
    return product;
  }
};

}  // namespace iwae
