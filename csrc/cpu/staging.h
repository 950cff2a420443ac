// Tiles: short contiguous runs in the dtype of the computation, on which the kernels work. A tensor that already has
// this layout is read in place; half precision, strides, masks and the ends of rows go through a small buffer in the L1
// cache.
#pragma once

#include "../math/half.h"
#include "../operand.h"
#include "simd.h"

namespace iwae {
namespace IWAE_ISA {

// Elements per tile: whole vectors of every width, a few KiB, and few enough that the product of as many Bernoulli
// factors, each at most 2, fits into a double.
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

// The number of lanes of the vector at `first` that hold elements, if there are `end` in all; 0 or less past the end.
template <class T>
static inline int lanes_left(int64_t first, int64_t end) {
  return static_cast<int>(end - first < Simd<T>::kLanes ? end - first : Simd<T>::kLanes);
}

// Loads a vector of which only the first lanes are in memory; the others are 0.
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

// A buffer for one tile, including the padding of the last vector.
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
    case DType::kInt64: break;  // operands of the computation are never int64
  }
  if (mask != nullptr) {
    for (int i = 0; i < count; ++i) to[i] = mask[i] ? to[i] : neutral;
  }
  for (int i = count; i < round_up<T>(count); ++i) to[i] = neutral;
  return to;
}

// The mask of a tile as bytes, null without a mask.
static inline const uint8_t* load_mask(const Operand& mask, int64_t offset, int64_t stride, int count,
                                       Buffer<uint8_t>& buffer) {
  if (!mask) return nullptr;
  const uint8_t* data = reinterpret_cast<const uint8_t*>(mask.data) + offset;
  if (stride == 1) return data;
  for (int i = 0; i < count; ++i) buffer.data[i] = data[i * stride];
  return buffer.data;
}

// Returns where to write a tile: in place if it is whole vectors of T, otherwise a buffer from which store_tile copies.
template <class T>
static inline T* output_tile(const Operand& operand, int64_t offset, int count, Buffer<T>& buffer) {
  if (operand.dtype != dtype_of<T>() || count % Simd<T>::kLanes != 0) return buffer.data;
  return reinterpret_cast<T*>(operand.data) + offset;
}

// Copies a finished tile to its tensor, whose last axis is contiguous.
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
    case DType::kInt64: break;  // operands of the computation are never int64
  }
}

// Reads one element and widens it.
template <class T>
static inline T load_one(const Operand& operand, int64_t offset) {
  T value;
  switch (operand.dtype) {
    case DType::kFloat64: value = static_cast<T>(reinterpret_cast<const double*>(operand.data)[offset]); break;
    case DType::kBFloat16:
      value = static_cast<T>(float(reinterpret_cast<const BFloat16*>(operand.data)[offset]));
      break;
    case DType::kFloat16: value = static_cast<T>(float(reinterpret_cast<const Float16*>(operand.data)[offset])); break;
    default: value = static_cast<T>(reinterpret_cast<const float*>(operand.data)[offset]); break;
  }
  return value;
}

}  // namespace IWAE_ISA
}  // namespace iwae
