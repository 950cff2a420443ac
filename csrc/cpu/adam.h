// A step of Adam for several tensors in one loop over chunks of all of them.
#pragma once

#include "../calls.h"
#include "../math/adam.h"
#include "../math/half.h"
#include "rows.h"
#include "simd.h"
#include "staging.h"

namespace iwae {
namespace IWAE_ISA {

// Loads a vector of which only the first lanes are in memory.
template <class T, class Storage>
static inline typename Simd<T>::Value load_stored(const Storage* from, int count) {
  if constexpr (sizeof(Storage) == sizeof(T)) {
    return load_some<T>(from, count);
  } else {
    typename Simd<T>::Value value = Simd<T>::zero();
    for (int lane = 0; lane < count; ++lane) value[lane] = static_cast<T>(from[lane]);
    return value;
  }
}

template <class T, class Storage>
static inline void store_rounded(Storage* to, int count, typename Simd<T>::Value value) {
  if constexpr (sizeof(Storage) == sizeof(T)) {
    store_some<T>(to, count, value);
  } else {
    for (int lane = 0; lane < count; ++lane) to[lane] = Storage::from(value[lane]);
  }
}

// Calls body(tensor, begin, end, chunk) for each chunk of each tensor, distributed over threads.
template <class Body>
static inline void for_chunks(const AdamTensor* tensors, int64_t count, int threads, const Body& body) {
  int64_t chunks = 0, elements = 0;
  for (int64_t i = 0; i < count; ++i) {
    chunks += chunks_of(tensors[i].size);
    elements += tensors[i].size;
  }
  parallel(chunks, useful_threads(elements, threads), [&](int64_t begin, int64_t end) {
    int64_t tensor = 0, first = 0;  // and its first chunk
    for (int64_t chunk = begin; chunk < end; ++chunk) {
      while (chunk >= first + chunks_of(tensors[tensor].size)) first += chunks_of(tensors[tensor++].size);
      const int64_t from = (chunk - first) * kChunk, left = tensors[tensor].size - from;
      body(tensor, from, from + (left < kChunk ? left : kChunk), chunk);
    }
  });
}

template <class T, class Storage>
static void adam(const AdamCall& call) {
  using S = Simd<T>;
  if (call.found_inf != nullptr && *call.found_inf != 0.0f) return;
  double squares = 0.0;
  for (int64_t i = 0; i < call.squares_count; ++i) squares += call.squares[i];
  const double rate = call.rate ? load_one<double>(call.rate, 0) : call.settings.rate;
  const double scale = call.scale != nullptr ? *call.scale : 1.0;
  // Not std::vector: its functions would be shared by instruction sets.
  AdamCoefficients<T>* coefficients = new AdamCoefficients<T>[call.count];
  for (int64_t i = 0; i < call.count; ++i) {
    const float taken = *call.tensors[i].step;
    coefficients[i] = i > 0 && taken == *call.tensors[i - 1].step
                          ? coefficients[i - 1]
                          : adam_coefficients<T>(call.settings, taken, rate, scale, squares);
  }
  for_chunks(call.tensors, call.count, call.threads, [&](int64_t index, int64_t begin, int64_t end, int64_t) {
    const AdamTensor& tensor = call.tensors[index];
    const AdamCoefficients<T> shared = coefficients[index];
    Storage* parameter = static_cast<Storage*>(tensor.parameter);
    Storage* gradient = static_cast<Storage*>(tensor.gradient);
    Storage* first = static_cast<Storage*>(tensor.first);
    Storage* second = static_cast<Storage*>(tensor.second);
    const auto update = [&](int64_t i, int lanes) __attribute__((always_inline)) {
      typename S::Value p = load_stored<T>(parameter + i, lanes), g = load_stored<T>(gradient + i, lanes);
      typename S::Value m = load_stored<T>(first + i, lanes), v = load_stored<T>(second + i, lanes);
      if (call.scale != nullptr) store_rounded<T>(gradient + i, lanes, g / static_cast<T>(scale));
      adam_update<S>(shared, g, p, m, v);
      store_rounded<T>(parameter + i, lanes, p);
      store_rounded<T>(first + i, lanes, m);
      store_rounded<T>(second + i, lanes, v);
    };
    int64_t i = begin;
    for (; i + S::kLanes <= end; i += S::kLanes) update(i, S::kLanes);  // without a branch for each load and store
    if (i < end) update(i, lanes_left<T>(i, end));
  });
  for (int64_t i = 0; i < call.count; ++i) *call.tensors[i].step += 1.0f;
  delete[] coefficients;
}

// The sum of the squares of each chunk's gradients, whose order does not depend on the number of threads.
template <class T, class Storage>
static void sum_squares(const SquaresCall& call) {
  using S = Simd<T>;
  for_chunks(call.tensors, call.count, call.threads, [&](int64_t index, int64_t begin, int64_t end, int64_t chunk) {
    const Storage* gradient = static_cast<const Storage*>(call.tensors[index].gradient);
    constexpr int64_t kRun = 16 * S::kLanes;  // in T before a sum in double: widening each vector takes longer
    typename S::Wide sum{};
    for (int64_t run = begin; run < end; run += kRun) {
      const int64_t stop = run + kRun < end ? run + kRun : end;
      typename S::Value part = S::zero();
      int64_t i = run;
      for (; i + S::kLanes <= stop; i += S::kLanes) {
        const typename S::Value g = load_stored<T>(gradient + i, S::kLanes);
        part += g * g;
      }
      if (i < stop) {
        const typename S::Value g = load_stored<T>(gradient + i, lanes_left<T>(i, stop));
        part += g * g;
      }
      sum += S::widen(part);
    }
    call.squares[chunk] = S::sum(sum);
  });
}

}  // namespace IWAE_ISA
}  // namespace iwae
