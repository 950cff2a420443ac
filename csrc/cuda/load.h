// Loads and stores of a thread's elements of a row: 16 bytes at a time in the dtype of most of the data, or one element
// at a time for any dtype and strides.
#pragma once

#include "../math/half.h"
#include "../operand.h"
#include "async.h"
#include "device.h"

namespace iwae {
namespace IWAE_ISA {

// An operand in the kernels; null data: not given, or not requested.
struct View {
  char* data = nullptr;
  DType dtype = DType::kFloat32;
  int64_t feature_stride = 0;
  bool wide = false;   // elements are twice as large as those of the storage: float32 with 16-bit storage
  bool splat = false;  // the same number for all features
};

inline View view_of(const Operand& operand, int feature_axis) {
  return {operand.data, operand.dtype, operand.strides[feature_axis], false, false};
}

template <class T>
__device__ __forceinline__ T load_one(const char* data, DType dtype, int64_t offset) {
  switch (dtype) {
    case DType::kFloat64: return static_cast<T>(reinterpret_cast<const double*>(data)[offset]);
    case DType::kBFloat16: return static_cast<T>(float(reinterpret_cast<const BFloat16*>(data)[offset]));
    case DType::kFloat16: return static_cast<T>(float(reinterpret_cast<const Float16*>(data)[offset]));
    default: return static_cast<T>(reinterpret_cast<const float*>(data)[offset]);
  }
}

template <class T>
__device__ __forceinline__ void store_one(char* data, DType dtype, int64_t offset, T value) {
  switch (dtype) {
    case DType::kFloat64: reinterpret_cast<double*>(data)[offset] = value; break;
    case DType::kBFloat16: reinterpret_cast<BFloat16*>(data)[offset] = BFloat16::from(static_cast<float>(value)); break;
    case DType::kFloat16: reinterpret_cast<Float16*>(data)[offset] = Float16::from(static_cast<float>(value)); break;
    default: reinterpret_cast<float*>(data)[offset] = static_cast<float>(value); break;
  }
}

template <class T>
IWAE_EVERYWHERE constexpr DType dtype_of();
template <>
IWAE_EVERYWHERE constexpr DType dtype_of<float>() { return DType::kFloat32; }
template <>
IWAE_EVERYWHERE constexpr DType dtype_of<double>() { return DType::kFloat64; }
template <>
IWAE_EVERYWHERE constexpr DType dtype_of<BFloat16>() { return DType::kBFloat16; }
template <>
IWAE_EVERYWHERE constexpr DType dtype_of<Float16>() { return DType::kFloat16; }

struct alignas(16) Sixteen {
  uint32_t word[4];
};

// 16 bytes of `Storage` at a time. Other operands may be float32 if the storage has 16 bits, or one number per row.
template <class Storage, int kMost = 4>
struct Vector {
  using Scalar = typename std::conditional<sizeof(Storage) == 8, double, float>::type;
  static constexpr int kWidth = 16 / sizeof(Storage), kMostRows = kMost, kBytes = sizeof(Storage);
  static constexpr bool kHalf = sizeof(Storage) == 2, kCopies = false;

  // The raw bytes as loaded, so that several loads are under way before the first one is used.
  struct Raw {
    Sixteen part[kHalf ? 2 : 1];
  };

  // Returns true if all rows of an operand can be read this way, given the strides between them.
  static bool takes(View& view, int64_t features, const int64_t* strides, int count) {
    if (!view.data) return true;
    view.wide = kHalf && view.dtype == DType::kFloat32;
    if (features % kWidth != 0 || (view.dtype != dtype_of<Storage>() && !view.wide)) return false;
    view.splat = view.feature_stride == 0 && features != 1;
    if (view.splat) return true;
    const int64_t bytes = size_of(view.dtype);
    bool aligned = view.feature_stride == 1 && reinterpret_cast<uintptr_t>(view.data) % 16 == 0;
    for (int i = 0; i < count; ++i) aligned = aligned && strides[i] * bytes % 16 == 0;
    return aligned;
  }

  // The number of bytes before a feature of a row: two products, since in a loop over features that of the row stays.
  __device__ __forceinline__ static int64_t bytes_before(const View& view, int64_t row, int64_t feature) {
    const int64_t element = static_cast<int64_t>(kHalf && view.wide ? sizeof(float) : sizeof(Storage));
    return row * element + feature * element;
  }

  __device__ __forceinline__ static Raw load(const View& view, int64_t row, int64_t feature) {
    Raw raw;
    if (view.splat) {
      const char* from = view.data + bytes_before(view, row, 0);
      const Scalar one = kHalf && !view.wide ? static_cast<Scalar>(*reinterpret_cast<const Storage*>(from))
                                             : *reinterpret_cast<const Scalar*>(from);
      memcpy(&raw, &one, sizeof one);
      return raw;
    }
    return load_from(view.data, view, row, feature);
  }

  // Loads from other memory than the view's, in its layout.
  __device__ __forceinline__ static Raw load_from(const char* data, const View& view, int64_t row, int64_t feature) {
    Raw raw;
    const Sixteen* from = aligned_to_16(reinterpret_cast<const Sixteen*>(data + bytes_before(view, row, feature)));
    raw.part[0] = from[0];
    if (kHalf && view.wide) raw.part[kHalf ? 1 : 0] = from[1];
    return raw;
  }

  __device__ __forceinline__ static void convert(const View& view, const Raw& raw, Scalar (&values)[kWidth]) {
    if (view.splat) {
      Scalar one;
      memcpy(&one, &raw, sizeof one);
#pragma unroll
      for (int i = 0; i < kWidth; ++i) values[i] = one;
      return;
    }
    unpack(view.wide, raw, values);
  }

  // The same for operands that are not one number per row.
  __device__ __forceinline__ static void unpack(bool wide, const Raw& raw, Scalar (&values)[kWidth]) {
    if constexpr (kHalf) {
      if (wide) {
        memcpy(values, &raw, sizeof values);
        return;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) Storage::unpack(raw.part[0].word[i], values[2 * i], values[2 * i + 1]);
    } else {
      memcpy(values, &raw, sizeof values);
    }
  }

  __device__ __forceinline__ static void store(const View& view, int64_t row, int64_t feature,
                                               const Scalar (&values)[kWidth]) {
    Sixteen* to = aligned_to_16(reinterpret_cast<Sixteen*>(view.data + bytes_before(view, row, feature)));
    Sixteen part;
    if constexpr (kHalf) {
      if (view.wide) {
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          memcpy(&part, &values[4 * i], sizeof part);
          to[i] = part;
        }
        return;
      }
#pragma unroll
      for (int i = 0; i < 4; ++i) part.word[i] = Storage::pack(values[2 * i], values[2 * i + 1]);
    } else {
      memcpy(&part, values, sizeof part);
    }
    *to = part;
  }
};

// The same by asynchronous copies to shared memory, without masks and without one number per row: most calls are of
// this kind, whose code has few branches. A load into a register is under way only until an instruction needs it, and
// the compiler moves loads towards their uses where it is short of registers; a copy waits for nothing and takes no
// register. Each thread reads only what it has copied itself, so that no barrier is needed.
template <class Base>
struct Copying : Base {
  static constexpr bool kCopies = true;

  static bool takes(View& view, int64_t features, const int64_t* strides, int count) {
    return Base::takes(view, features, strides, count) && !view.splat;
  }

  // Starts the copy of a thread's elements to its place. The places of a thread are kThreads apart, so that those of
  // neighboring threads are neighbors. The second half of float32 beside 16 bits goes to the next place, which only the
  // first row has.
  __device__ __forceinline__ static void start(Sixteen* place, const View& view, int64_t row, int64_t feature,
                                               bool is_first) {
    const char* from = view.data + Base::bytes_before(view, row, feature);
    copy_sixteen(place, from);
    if (Base::kHalf && is_first && view.wide) copy_sixteen(place + kThreads, from + sizeof(Sixteen));
  }

  __device__ __forceinline__ static void convert(const View& view, const Sixteen* place, bool is_first,
                                                 typename Base::Scalar (&values)[Base::kWidth]) {
    typename Base::Raw raw;
    raw.part[0] = place[0];
    if constexpr (Base::kHalf) {
      if (is_first && view.wide) raw.part[1] = place[kThreads];
    }
    Base::unpack(is_first && view.wide, raw, values);
  }
};

// One element at a time, of any dtype and strides.
template <class T>
struct Single {
  using Scalar = T;
  static constexpr int kWidth = 1, kMostRows = 2;
  static constexpr bool kCopies = false;
  using Raw = T;

  static bool takes(View&, int64_t, const int64_t*, int) { return true; }

  __device__ __forceinline__ static Raw load(const View& view, int64_t row, int64_t feature) {
    return load_one<T>(view.data, view.dtype, row + feature * view.feature_stride);
  }
  __device__ __forceinline__ static void convert(const View&, const Raw& raw, T (&values)[1]) { values[0] = raw; }
  __device__ __forceinline__ static void store(const View& view, int64_t row, int64_t feature, const T (&values)[1]) {
    store_one(view.data, view.dtype, row + feature * view.feature_stride, values[0]);
  }
};

// The same for long formulas, which leave no registers to the elements of a second row.
template <class T>
struct SingleRow : Single<T> {
  static constexpr int kMostRows = 1;
};

}  // namespace IWAE_ISA
}  // namespace iwae
