// The noise of a call, one block of neighboring dimensions at a time.
#pragma once

#include "../math/philox.h"
#include "../calls.h"
#include "noise_math.h"
#include "simd.h"

namespace iwae {
namespace IWAE_ISA {

constexpr int64_t kElementsANormal = 3;  // a normal costs about as much as three elements of a density

// The number of vectors of words computed together: two hide the latency, but two of the widest often exceed a row.
constexpr int kWordVectors = IWAE_VECTOR_BYTES < 64 ? 2 : 1;

// A block of neighboring elements of a row.
template <class T>
struct Block {
  static constexpr int kVectors = 2 * kWordVectors, kLanes = Simd<T>::kLanes, kSize = kVectors * kLanes;
  typename Simd<T>::Value part[kVectors];
};

// Writes the first `count` elements of a block.
template <class T>
static inline void store_block(T* to, int count, const Block<T>& block) {
  if (count == Block<T>::kSize) {
    for (int v = 0; v < Block<T>::kVectors; ++v) Simd<T>::store(to + v * Block<T>::kLanes, block.part[v]);
  } else {
    std::memcpy(to, &block, sizeof(T) * count);
  }
}

// The words shared by all counters of a row.
struct NoiseRow {
  uint32_t observation, sample, stream;
};

// The state shared by all rows, and functions that compute normals of any row.
template <class T>
class Noise {
 public:
  explicit Noise(const NoiseCall& call) : call_(call), keys_(philox_keys<NoiseMath<T>>(*call.seed)) {
    const int64_t last = (blocks() - 1) * kSize;
    T exists[kSize];
    for (int i = 0; i < kSize; ++i) exists[i] = last + i < call.dimensions ? T(1) : T(0);
    std::memcpy(&exists_in_last_, exists, sizeof exists);
  }

  // The number of blocks of a row.
  int64_t blocks() const { return (call_.dimensions + kSize - 1) / kSize; }

  // The number of dimensions of a block that exist.
  int size(int64_t block) const {
    const int64_t left = call_.dimensions - block * kSize;
    return left < kSize ? static_cast<int>(left) : kSize;
  }

  NoiseRow row(int64_t sample, int64_t observation) const {
    const int64_t index = call_.chosen ? chosen(sample, observation) : sample + call_.sample_offset;
    return {static_cast<uint32_t>(observation + call_.observation_offset), static_cast<uint32_t>(index),
            static_cast<uint32_t>(call_.stream)};
  }

  // Standard normals; 0 where a dimension does not exist.
  Block<T> operator()(const NoiseRow& row, int64_t block) const {
    const uint32_t quad = static_cast<uint32_t>(block * (kSize / 4));  // a counter gives four normals
    Block<T> normals;
    if constexpr (sizeof(T) == sizeof(float)) {
      fill_vectors(quad, row, normals.part);
    } else {
      T numbers[kSize] = {};
      for (int i = 0; i < size(block); i += 4) fill_quad(quad + i / 4, row, numbers + i);
      std::memcpy(&normals, numbers, sizeof numbers);
    }
    if (block == blocks() - 1) {
      for (int v = 0; v < Block<T>::kVectors; ++v) normals.part[v] *= exists_in_last_.part[v];
    }
    return normals;
  }

 private:
  using Math = NoiseMath<T>;
  static constexpr int kSize = Block<T>::kSize;

  int64_t chosen(int64_t sample, int64_t observation) const {
    const int64_t* strides = call_.chosen.strides;
    return reinterpret_cast<const int64_t*>(call_.chosen.data)[sample * strides[0] + observation * strides[1]];
  }

  void fill_vectors(uint32_t quad, const NoiseRow& row, typename Math::Value* normals) const {
    PhiloxWords<Math> words[kWordVectors];
    for (int v = 0; v < kWordVectors; ++v) {
      words[v] = {{Math::words_from(quad + v * Math::kWords), Math::word(row.observation), Math::word(row.sample),
                   Math::word(row.stream)}};
    }
    philox(words, keys_);
    for (int v = 0; v < kWordVectors; ++v) {
      const typename Math::Word* word = words[v].word;
      const NormalPair<Math> pair = two_normals<Math>(Math::in_turn(word[0], word[2]), Math::in_turn(word[1], word[3]));
      Math::interleave(pair.first, pair.second, normals[2 * v], normals[2 * v + 1]);
    }
  }

  void fill_quad(uint32_t quad, const NoiseRow& row, T* normals) const {
    PhiloxWords<Math> words[1] = {{{quad, row.observation, row.sample, row.stream}}};
    philox(words, keys_);
    for (int w = 0; w < 4; w += 2) {
      const NormalPair<Math> pair = two_normals<Math>(static_cast<uint32_t>(words[0].word[w]),
                                                      static_cast<uint32_t>(words[0].word[w + 1]));
      normals[w] = pair.first;
      normals[w + 1] = pair.second;
    }
  }

  const NoiseCall& call_;
  PhiloxKeys<Math> keys_;
  Block<T> exists_in_last_;
};

}  // namespace IWAE_ISA
}  // namespace iwae
