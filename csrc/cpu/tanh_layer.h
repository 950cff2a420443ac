// The elementwise parts of a dense layer with tanh; the matrix products are torch's.
#pragma once

#include "../calls.h"
#include "rows.h"
#include "simd.h"
#include "staging.h"

namespace iwae {
namespace IWAE_ISA {

// y = tanh(x + bias), in place; the bias may be null.
template <class T>
static void tanh_layer_forward(const TanhLayerCall& call) {
  using S = Simd<T>;
  T* values = static_cast<T*>(call.values);
  const T* bias = static_cast<const T*>(call.bias);
  parallel(call.rows, useful_threads(call.rows * call.columns, call.threads), [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      T* row = values + r * call.columns;
      for (int64_t first = 0; first < call.columns; first += S::kLanes) {
        const int count = lanes_left<T>(first, call.columns);
        typename S::Value x = load_some(row + first, count);
        if (bias != nullptr) x += load_some(bias + first, count);
        store_some(row + first, count, S::tanh(x));
      }
    }
  });
}

// From y and its gradient g: the gradient of the tanh's input, g (1 - y^2), and its sum over rows.
//
// Columns are distributed over threads, so that each sum has a fixed order: in float32 over a few rows at a time, in
// double over all.
template <class T>
static void tanh_layer_gradient(const TanhLayerBackwardCall& call) {
  using S = Simd<T>;
  constexpr int64_t kColumnBlock = 64 / sizeof(T) * 2, kRowBlock = 32;
  const T* values = static_cast<const T*>(call.values);
  const T* grad = static_cast<const T*>(call.grad);
  T* gradient = static_cast<T*>(call.gradient);
  T* bias_gradient = static_cast<T*>(call.bias_gradient);
  const int64_t blocks = (call.columns + kColumnBlock - 1) / kColumnBlock;
  parallel(blocks, useful_threads(call.rows * call.columns, call.threads), [&](int64_t begin, int64_t end) {
    constexpr int kVectors = kColumnBlock / S::kLanes;
    for (int64_t block = begin; block < end; ++block) {
      const int64_t first = block * kColumnBlock;
      typename S::Wide total[kVectors] = {};
      for (int64_t top = 0; top < call.rows; top += kRowBlock) {
        const int64_t bottom = top + kRowBlock < call.rows ? top + kRowBlock : call.rows;
        typename S::Value part[kVectors] = {};
        for (int64_t r = top; r < bottom; ++r) {
          for (int v = 0; v < kVectors; ++v) {
            const int64_t column = first + v * S::kLanes;
            const int count = lanes_left<T>(column, call.columns);
            if (count <= 0) break;
            const int64_t at = r * call.columns + column;
            const typename S::Value y = load_some(values + at, count);
            const typename S::Value g = load_some(grad + at, count) * (S::one() - y * y);
            store_some(gradient + at, count, g);
            part[v] += g;
          }
        }
        for (int v = 0; v < kVectors; ++v) total[v] += S::widen(part[v]);
      }
      for (int v = 0; v < kVectors; ++v) {
        const int64_t column = first + v * S::kLanes;
        for (int lane = 0; lane < lanes_left<T>(column, call.columns); ++lane) {
          bias_gradient[column + lane] = static_cast<T>(total[v][lane]);
        }
      }
    }
  });
}

}  // namespace IWAE_ISA
}  // namespace iwae
