// Reparameterized samples z = m + s eps with log p(z) - log q(z | x) = 1/2 sum [eps^2 - z^2 + 2 log s], p = N(0, I).
//
// Nothing of the size of z is saved for the backward pass, which recomputes the noise. Short sums are in the dtype of
// the call, and their totals in double.
#pragma once

#include "../math/sample_gaussian.h"
#include "noise.h"
#include "rows.h"
#include "staging.h"

namespace iwae {
namespace IWAE_ISA {

// A buffer in which the end of a row is padded to a block.
template <class T>
struct Padded {
  alignas(64) T data[Block<T>::kSize] = {};
};

// `count` elements from `offset`, followed by zeros. The zeros are those that `padded` was initialized with, so it must
// be used for one count only.
template <class T>
static inline Block<T> load_block(const Operand& operand, int64_t offset, int64_t stride, int count,
                                  Padded<T>& padded) {
  const T* from = padded.data;
  if (operand.dtype != dtype_of<T>()) {
    for (int i = 0; i < count; ++i) padded.data[i] = load_one<T>(operand, offset + i * stride);
  } else {
    const T* data = reinterpret_cast<const T*>(operand.data) + offset;
    if (stride == 1 && count == Block<T>::kSize) {
      from = data;
    } else {
      gather(data, stride, count, padded.data);
    }
  }
  Block<T> block;
  for (int v = 0; v < Block<T>::kVectors; ++v) block.part[v] = Simd<T>::load(from + v * Block<T>::kLanes);
  return block;
}

// m, log s and s of one block of one observation.
template <class T>
struct Posterior {
  Block<T> mean, log_std, std;
};

template <class T, class Call>
static inline Posterior<T> posterior(const Call& call, int64_t observation, int64_t block, int count) {
  Padded<T> padded;
  const auto load = [&](const Operand& operand) {
    const int64_t first = block * Block<T>::kSize, stride = operand.strides[2];
    return load_block(operand, observation * operand.strides[1] + first * stride, stride, count, padded);
  };
  Posterior<T> q = {load(call.mean), load(call.log_std), {}};
  for (int v = 0; v < Block<T>::kVectors; ++v) q.std.part[v] = Simd<T>::exp(q.log_std.part[v]);
  return q;
}

// Computes one row of z and returns its log-ratio.
template <class T>
static inline double sample_row(const Noise<T>& noise, const Posterior<T>* posteriors, const NoiseRow& row, T* z) {
  using S = Simd<T>;
  constexpr int64_t kBlocksASum = 32;
  const int64_t blocks = noise.blocks();
  double log_ratio = 0.0;
  for (int64_t first = 0; first < blocks; first += kBlocksASum) {
    const int64_t stop = first + kBlocksASum < blocks ? first + kBlocksASum : blocks;
    Block<T> sum = {};
    for (int64_t block = first; block < stop; ++block) {
      const Posterior<T>& q = posteriors[block];
      const Block<T> eps = noise(row, block);
      Block<T> values;
      for (int v = 0; v < Block<T>::kVectors; ++v) {
        values.part[v] = q.mean.part[v] + q.std.part[v] * eps.part[v];
        sum.part[v] += gaussian_log_ratio<S>(eps.part[v], values.part[v], q.log_std.part[v]);
      }
      store_block(z + block * Block<T>::kSize, noise.size(block), values);
    }
    for (int v = 1; v < Block<T>::kVectors; ++v) sum.part[0] += sum.part[v];
    log_ratio += S::sum(S::widen(sum.part[0]));
  }
  return log_ratio;
}

template <class T>
static void sample_gaussian_forward(const SampleGaussianCall& call) {
  T* z = static_cast<T*>(call.z);
  T* log_ratio = static_cast<T*>(call.log_ratio);
  const Noise<T> noise(call);
  const int64_t blocks = noise.blocks(), rows = call.samples * call.observations;
  Posterior<T>* posteriors = new Posterior<T>[call.observations * blocks];  // shared by all samples
  parallel(call.observations, useful_threads(call.observations * call.dimensions, call.threads),
           [&](int64_t begin, int64_t end) {
             for (int64_t b = begin; b < end; ++b) {
               for (int64_t block = 0; block < blocks; ++block) {
                 posteriors[b * blocks + block] = posterior<T>(call, b, block, noise.size(block));
               }
             }
           });
  const int threads = useful_threads(kElementsANormal * rows * call.dimensions, call.threads);
  parallel(rows, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t sample = row / call.observations, observation = row % call.observations;
      log_ratio[row] = static_cast<T>(sample_row(noise, posteriors + observation * blocks,
                                                 noise.row(sample, observation), z + row * call.dimensions));
    }
  });
  delete[] posteriors;
}

// The gradients of one block of one observation, which are sums over samples.
template <class T>
class PosteriorGradient {
 public:
  PosteriorGradient(const SampleGaussianBackwardCall& call, const Noise<T>& noise, int64_t observation, int64_t block)
      : call_(call), noise_(noise), observation_(observation), block_(block), size_(noise.size(block)),
        q_(posterior<T>(call, observation, block, size_)) {
    for (int v = 0; v < Block<T>::kVectors; ++v) {
      reciprocal_.part[v] = call.path_only ? S::one() / q_.std.part[v] : S::zero();
    }
  }

  // Adds the samples [begin, end).
  void add(int64_t begin, int64_t end) {
    Block<T> mean = {}, log_std = {};
    for (int64_t sample = begin; sample < end; ++sample) {
      const Block<T> eps = noise_(noise_.row(sample, observation_), block_);
      const T weight = incoming_at_log_ratio(sample);
      Block<T> at_z = incoming_at_z(sample);
      for (int v = 0; v < Block<T>::kVectors; ++v) {
        const typename S::Value step = q_.std.part[v] * eps.part[v], z = q_.mean.part[v] + step;
        // A weight of zero gives zero even where z overflows: 0 * inf would be NaN.
        if (weight != T(0)) {
          const ScoreGradient<typename S::Value> score =
              gaussian_score_gradient<S>(call_.path_only, eps.part[v], reciprocal_.part[v]);
          at_z.part[v] -= weight * z;
          mean.part[v] += weight * score.mean;
          log_std.part[v] += weight * score.log_std;
        }
        mean.part[v] += at_z.part[v];
        log_std.part[v] += gaussian_step_gradient<S>(at_z.part[v], step);
      }
    }
    add_block(mean, mean_);
    add_block(log_std, log_std_);
  }

  void store() const {
    store(call_.grad_mean, mean_);
    store(call_.grad_log_std, log_std_);
  }

 private:
  using S = Simd<T>;

  T incoming_at_log_ratio(int64_t sample) const {
    const Operand& grad = call_.grad_log_ratio;
    return grad ? load_one<T>(grad, sample * grad.strides[0] + observation_ * grad.strides[1]) : T(0);
  }

  Block<T> incoming_at_z(int64_t sample) {
    const Operand& grad = call_.grad_z;
    if (!grad) return {};
    const int64_t stride = grad.strides[2], row = sample * grad.strides[0] + observation_ * grad.strides[1];
    return load_block(grad, row + block_ * Block<T>::kSize * stride, stride, size_, padded_);
  }

  static void add_block(const Block<T>& block, double* sums) {
    T values[Block<T>::kSize];
    store_block(values, Block<T>::kSize, block);
    for (int i = 0; i < Block<T>::kSize; ++i) sums[i] += values[i];
  }

  void store(const Operand& gradient, const double* sums) const {
    T values[Block<T>::kSize];
    for (int i = 0; i < Block<T>::kSize; ++i) values[i] = static_cast<T>(sums[i]);
    store_tile(gradient, observation_ * call_.dimensions + block_ * Block<T>::kSize, size_, values);
  }

  const SampleGaussianBackwardCall& call_;
  const Noise<T>& noise_;
  const int64_t observation_, block_;
  const int size_;
  const Posterior<T> q_;
  Block<T> reciprocal_;
  Padded<T> padded_;
  double mean_[Block<T>::kSize] = {}, log_std_[Block<T>::kSize] = {};
};

template <class T>
static void sample_gaussian_gradient(const SampleGaussianBackwardCall& call) {
  constexpr int64_t kSamplesASum = 32;
  const Noise<T> noise(call);
  const int64_t items = call.observations * noise.blocks();
  const int64_t elements = kElementsANormal * call.samples * call.observations * call.dimensions;
  parallel(items, useful_threads(elements, call.threads), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      PosteriorGradient<T> gradient(call, noise, item / noise.blocks(), item % noise.blocks());
      for (int64_t first = 0; first < call.samples; first += kSamplesASum) {
        gradient.add(first, first + kSamplesASum < call.samples ? first + kSamplesASum : call.samples);
      }
      gradient.store();
    }
  });
}

}  // namespace IWAE_ISA
}  // namespace iwae
