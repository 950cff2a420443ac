// Reparameterised samples z = m + s eps with log p(z) - log q(z | x) = 1/2 sum [eps^2 - z^2 + 2 log s], p = N(0, I).
//
// Nothing of the size of z is kept for the backward pass: it makes the noise again. Sums run in double.
#pragma once

#include <cmath>

#include "noise.h"
#include "rows.h"
#include "staging.h"

namespace iwae {
namespace IWAE_ISA {

// m, log s and s of one dimension of one observation.
template <class T>
struct Posterior {
  T mean, log_std, std;
};

template <class T, class Call>
static inline Posterior<T> posterior(const Call& call, int64_t observation, int64_t d) {
  const T mean = load_one<T>(call.mean, observation * call.mean.strides[1] + d * call.mean.strides[2]);
  const T log_std = load_one<T>(call.log_std, observation * call.log_std.strides[1] + d * call.log_std.strides[2]);
  return {mean, log_std, std::exp(log_std)};
}

template <class T>
static void sample_gaussian_forward(const SampleGaussianCall& call) {
  T* z = static_cast<T*>(call.z);
  T* log_ratio = static_cast<T*>(call.log_ratio);
  const int64_t rows = call.samples * call.observations;
  const int threads = useful_threads(kElementsANormal * rows * call.dimensions, call.threads);
  Posterior<T>* posteriors = new Posterior<T>[call.observations * call.dimensions];  // serves all samples
  for (int64_t b = 0; b < call.observations; ++b) {
    for (int64_t d = 0; d < call.dimensions; ++d) posteriors[b * call.dimensions + d] = posterior<T>(call, b, d);
  }
  parallel(rows, threads, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t observation = row % call.observations;
      double sum = 0.0;
      for (int64_t quad = 0; quad < quads(call); ++quad) {
        T eps[kQuad];
        quad_of_normals(call, row / call.observations, observation, quad, eps);
        for (int64_t i = 0; i < quad_size(call, quad); ++i) {
          const int64_t d = quad * kQuad + i;
          const Posterior<T>& q = posteriors[observation * call.dimensions + d];
          const T sample = q.mean + q.std * eps[i];
          z[row * call.dimensions + d] = sample;
          sum += T(0.5) * (eps[i] * eps[i] - sample * sample) + q.log_std;
        }
      }
      log_ratio[row] = static_cast<T>(sum);
    }
  });
  delete[] posteriors;
}

template <class T>
static void sample_gaussian_gradient(const SampleGaussianBackwardCall& call) {
  const int64_t items = call.observations * quads(call);
  const int64_t elements = kElementsANormal * call.samples * call.observations * call.dimensions;
  parallel(items, useful_threads(elements, call.threads), [&](int64_t begin, int64_t end) {
    for (int64_t item = begin; item < end; ++item) {
      const int64_t observation = item / quads(call), quad = item % quads(call), first = quad * kQuad;
      const int64_t count = quad_size(call, quad);
      Posterior<T> q[kQuad] = {};
      double mean_sum[kQuad] = {}, log_std_sum[kQuad] = {};
      for (int64_t i = 0; i < count; ++i) q[i] = posterior<T>(call, observation, first + i);
      for (int64_t sample = 0; sample < call.samples; ++sample) {
        T eps[kQuad];
        quad_of_normals(call, sample, observation, quad, eps);
        T incoming = T(0);  // the gradient of the log-ratio
        if (call.grad_log_ratio) {
          const int64_t* strides = call.grad_log_ratio.strides;
          incoming = load_one<T>(call.grad_log_ratio, sample * strides[0] + observation * strides[1]);
        }
        for (int64_t i = 0; i < count; ++i) {
          const T z = q[i].mean + q[i].std * eps[i];
          T at_z = T(0);  // the gradient that arrives at z
          if (call.grad_z) {
            const int64_t* strides = call.grad_z.strides;
            at_z = load_one<T>(call.grad_z,
                               sample * strides[0] + observation * strides[1] + (first + i) * strides[2]);
          }
          // With q's parameters held fixed, log q is a function of z: -(z - m) / s^2 = -eps / s. Otherwise eps does not
          // depend on them, and what is left of log q is log s itself.
          if (incoming != T(0)) at_z += call.path_only ? incoming * (eps[i] / q[i].std - z) : -incoming * z;
          mean_sum[i] += at_z;
          log_std_sum[i] += at_z * (q[i].std * eps[i]) + (call.path_only ? T(0) : incoming);
        }
      }
      T mean[kQuad], log_std[kQuad];
      for (int64_t i = 0; i < count; ++i) {
        mean[i] = static_cast<T>(mean_sum[i]);
        log_std[i] = static_cast<T>(log_std_sum[i]);
      }
      const int64_t offset = observation * call.dimensions + first;
      store_tile(call.grad_mean, offset, static_cast<int>(count), mean);
      store_tile(call.grad_log_std, offset, static_cast<int>(count), log_std);
    }
  });
}

}  // namespace IWAE_ISA
}  // namespace iwae
