// Tiles: the kernels see short contiguous runs of the dtype they compute in. A tensor that is laid out so already is
// read in place; half precision, strides, masks and the ends of rows go through a small buffer in the L1 cache.
#pragma once

#include "../math/half.h"
#include "../operand.h"
#include "simd.h"

namespace iwae {
namespace IWAE_ISA {

// Elements of a tile: whole vectors of every kind, a few KiB, and few enough that a product of as many Bernoulli factors,
// each at most 2, fits in a double.
constexpr int kTile = 992;

template <class T>
constexpr DType dtype_of();
template <>
constexpr DType dtype_of<float>() { return DType::kFloat32; }
template <>
constexpr DType dtype_of<double>() { return DType::kFloat64; }

template <class T>
static inline int round_up(int count) {
  constexpr int lanes = Simd<T>::kLanes;
  return (count + lanes - 1) / lanes * lanes;
}

// How many lanes of the vector at `first` hold elements, of `end` in all; 0 or less past the end.
template <class T>
static inline int lanes_left(int64_t first, int64_t end) {
  return static_cast<int>(end - first < Simd<T>::kLanes ? end - first : Simd<T>::kLanes);
}

// A vector of which only so many lanes are in memory; the others read as 0.
template <class T>
static inline typename Simd<T>::Value load_some(const T* from, int count) {
  if (count == Simd<T>::kLanes) return Simd<T>::load(from);
  typename Simd<T>::Value value = Simd<T>::zero();
  for (int lane = 0; lane < count; ++lane) value[lane] = from[lane];
  return value;
}

template <class T>
static inline void store_some(T* to, int count, typename Simd<T>::Value value) {
  if (count == Simd<T>::kLanes) return Simd<T>::store(to, value);
  for (int lane = 0; lane < count; ++lane) to[lane] = value[lane];
}

// A place for one tile, with room for the padding of the last vector.
template <class T>
struct Buffer {
  alignas(64) T data[kTile];
};

template <class T, class Source>
static inline void gather(const Source* from, int64_t stride, int count, T* to) {
  if (stride == 1) {
    for (int i = 0; i < count; ++i) to[i] = static_cast<T>(from[i]);
  } else {
    for (int i = 0; i < count; ++i) to[i] = static_cast<T>(from[i * stride]);
  }
}

// `count` elements from `offset` as contiguous T, padded with `neutral` to whole vectors; masked ones are `neutral`.
template <class T>
static inline const T* load_tile(const Operand& operand, int64_t offset, int64_t stride, int count,
                                 const uint8_t* mask, T neutral, Buffer<T>& buffer) {
  const bool whole = count % Simd<T>::kLanes == 0;
  const char* data = operand.data + offset * size_of(operand.dtype);
  if (whole && mask == nullptr && stride == 1 && operand.dtype == dtype_of<T>()) {
    return reinterpret_cast<const T*>(data);
  }
  T* to = buffer.data;
  switch (operand.dtype) {
    case DType::kFloat32: gather(reinterpret_cast<const float*>(data), stride, count, to); break;
    case DType::kFloat64: gather(reinterpret_cast<const double*>(data), stride, count, to); break;
    case DType::kBFloat16: gather(reinterpret_cast<const BFloat16*>(data), stride, count, to); break;
    case DType::kFloat16: gather(reinterpret_cast<const Float16*>(data), stride, count, to); break;
    case DType::kBool:
    case DType::kInt64: break;  // no operand to compute with
  }
  if (mask != nullptr) {
    for (int i = 0; i < count; ++i) to[i] = mask[i] ? to[i] : neutral;
  }
  for (int i = count; i < round_up<T>(count); ++i) to[i] = neutral;
  return to;
}

// The mask of a tile as bytes, null where there is none.
static inline const uint8_t* load_mask(const Operand& mask, int64_t offset, int64_t stride, int count,
                                       Buffer<uint8_t>& buffer) {
  if (!mask) return nullptr;
  const uint8_t* data = reinterpret_cast<const uint8_t*>(mask.data) + offset;
  if (stride == 1) return data;
  for (int i = 0; i < count; ++i) buffer.data[i] = data[i * stride];
  return buffer.data;
}

// Where a tile may be written: in place if it is whole vectors of T, else in the buffer, for store_tile to take on.
template <class T>
static inline T* output_tile(const Operand& operand, int64_t offset, int count, Buffer<T>& buffer) {
  if (operand.dtype != dtype_of<T>() || count % Simd<T>::kLanes != 0) return buffer.data;
  return reinterpret_cast<T*>(operand.data) + offset;
}

// Brings a finished tile to its tensor, whose last axis is contiguous.
template <class T>
static inline void store_tile(const Operand& operand, int64_t offset, int count, const T* tile) {
  char* data = operand.data + offset * size_of(operand.dtype);
  if (reinterpret_cast<const char*>(tile) == data) return;
  switch (operand.dtype) {
    case DType::kFloat32:
      for (int i = 0; i < count; ++i) reinterpret_cast<float*>(data)[i] = static_cast<float>(tile[i]);
      break;
    case DType::kFloat64:
      for (int i = 0; i < count; ++i) reinterpret_cast<double*>(data)[i] = tile[i];
      break;
    case DType::kBFloat16:
      for (int i = 0; i < count; ++i)
        reinterpret_cast<BFloat16*>(data)[i] = BFloat16::from(static_cast<float>(tile[i]));
      break;
    case DType::kFloat16:
      for (int i = 0; i < count; ++i) reinterpret_cast<Float16*>(data)[i] = Float16::from(static_cast<float>(tile[i]));
      break;
    case DType::kBool:
    case DType::kInt64: break;  // no operand to compute with
  }
}

// One element, widened.
template <class T>
static inline T load_one(const Operand& operand, int64_t offset) {
  T value;
  switch (operand.dtype) {
    case DType::kFloat64: value = static_cast<T>(reinterpret_cast<const double*>(operand.data)[offset]); break;
    case DType::kBFloat16: value = static_cast<T>(float(reinterpret_cast<const BFloat16*>(operand.data)[offset])); break;
    case DType::kFloat16: value = static_cast<T>(float(reinterpret_cast<const Float16*>(operand.data)[offset])); break;
    default: value = static_cast<T>(reinterpret_cast<const float*>(operand.data)[offset]); break;
  }
  return value;
}

}  // namespace IWAE_ISA
}  // namespace iwae
