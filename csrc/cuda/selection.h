// The samples that a budget runs backward: those of largest importance, and one that is drawn from the rest.
//
// The importance of a sample is |a| / sum |a| + |b| / sum |b|, of its scales a in the decoder and b in the encoder. A
// block chooses for one observation. It visits the samples in falling order of importance, and of rising index where
// that is equal, so that the rest is what follows the last one chosen and nothing has to be marked.
#pragma once

#include "noise.h"

namespace iwae {
namespace IWAE_ISA {

struct SelectionPlan {
  NoisePlan noise;
  View decoder, encoder;
  int64_t decoder_strides[2], encoder_strides[2];
  int64_t budget = 0;
  double rounding = 0.0;
};

template <class T>
struct SelectionResults {
  int64_t* samples;
  T* decoder;
  T* encoder;
  T* ratio;
  int64_t* used;
};

// A sample and the number by which it competes; no sample has the index -1.
template <class T>
struct Candidate {
  T key;
  int64_t sample;

  __device__ __forceinline__ bool precedes(const Candidate& other) const {
    if (other.sample < 0) return sample >= 0;
    return sample >= 0 && (key > other.key || (key == other.key && sample < other.sample));
  }
};

// All threads of the block must ask for the first of their candidates, and get it.
template <class T>
__device__ __forceinline__ Candidate<T> first_of_block(Candidate<T> own) {
  __shared__ T keys[kThreads];
  __shared__ int64_t samples[kThreads];
  __syncthreads();
  keys[threadIdx.x] = own.key;
  samples[threadIdx.x] = own.sample;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) >= half) continue;
    const Candidate<T> other = {keys[threadIdx.x + half], samples[threadIdx.x + half]};
    if (!other.precedes(own)) continue;
    own = other;
    keys[threadIdx.x] = own.key;
    samples[threadIdx.x] = own.sample;
  }
  __syncthreads();
  return {keys[0], samples[0]};
}

__device__ __forceinline__ double sum_of_block(double own) {
  __shared__ double sums[kThreads];
  __syncthreads();
  sums[threadIdx.x] = own;
  for (int half = kThreads / 2; half > 0; half /= 2) {
    __syncthreads();
    if (static_cast<int>(threadIdx.x) < half) sums[threadIdx.x] += sums[threadIdx.x + half];
  }
  __syncthreads();
  return sums[0];
}

// The scales of one observation.
template <class T>
struct ScalesOf {
  const SelectionPlan& plan;
  int64_t observation;
  T over_decoder, over_encoder;  // 1 / sum, 0 for a sum of 0

  __device__ __forceinline__ T decoder(int64_t sample) const {
    return load_one<T>(plan.decoder.data, plan.decoder.dtype,
                       sample * plan.decoder_strides[0] + observation * plan.decoder_strides[1]);
  }
  __device__ __forceinline__ T encoder(int64_t sample) const {
    return load_one<T>(plan.encoder.data, plan.encoder.dtype,
                       sample * plan.encoder_strides[0] + observation * plan.encoder_strides[1]);
  }
  __device__ __forceinline__ T importance(int64_t sample) const {
    const T number = -(Math<T>::minus_abs(decoder(sample)) * over_decoder) -
                     Math<T>::minus_abs(encoder(sample)) * over_encoder;
    return number == number ? number : T(INFINITY);  // NaN comes first, and reaches the gradient
  }
};

template <class T>
IWAE_KERNEL selection_kernel(const SelectionPlan plan, const SelectionResults<T> results) {
  begin_kernel();
  const int64_t observation = blockIdx.x, observations = plan.noise.observations, samples = plan.noise.samples;
  ScalesOf<T> scales = {plan, observation, T(1), T(1)};
  double decoder_sum = 0.0, encoder_sum = 0.0;
  for (int64_t sample = threadIdx.x; sample < samples; sample += kThreads) {
    decoder_sum -= static_cast<double>(Math<T>::minus_abs(scales.decoder(sample)));
    encoder_sum -= static_cast<double>(Math<T>::minus_abs(scales.encoder(sample)));
  }
  decoder_sum = sum_of_block(decoder_sum);
  encoder_sum = sum_of_block(encoder_sum);
  scales.over_decoder = decoder_sum == 0.0 ? T(0) : static_cast<T>(1.0 / decoder_sum);
  scales.over_encoder = encoder_sum == 0.0 ? T(0) : static_cast<T>(1.0 / encoder_sum);

  int64_t used = 0;
  const auto choose = [&](int64_t place, int64_t sample, T times) {
    const T encoder = scales.encoder(sample) * times;
    const T least = Math<T>::minus_abs(encoder) * -static_cast<T>(plan.rounding);
    T decoder = scales.decoder(sample) * times;
    if (-Math<T>::minus_abs(decoder) < least) decoder = decoder < T(0) ? -least : least;
    const int64_t at = place * observations + observation;
    results.samples[at] = sample;
    results.decoder[at] = decoder;
    results.encoder[at] = encoder;
    results.ratio[at] = decoder == T(0) ? T(0) : encoder / decoder;
    used += decoder != T(0) || encoder != T(0);
  };
  Candidate<T> last = {T(INFINITY), -1};  // the one chosen last
  const auto follows = [&](const Candidate<T>& candidate) { return last.sample < 0 || last.precedes(candidate); };
  for (int64_t place = 0; place + 1 < plan.budget; ++place) {
    Candidate<T> own = {T(0), -1};
    for (int64_t sample = threadIdx.x; sample < samples; sample += kThreads) {
      const Candidate<T> candidate = {scales.importance(sample), sample};
      if (follows(candidate) && candidate.precedes(own)) own = candidate;
    }
    last = first_of_block(own);
    if (threadIdx.x == 0) choose(place, last.sample, T(1));
  }

  // Of exponential draws E_i / s_i is smallest at i with probability s_i / sum s.
  Candidate<T> own = {T(0), -1};
  double rest = 0.0;
  const uint64_t seed = *plan.noise.seed;
  for (int64_t sample = threadIdx.x; sample < samples; sample += kThreads) {
    const T importance = scales.importance(sample);
    if (!follows({importance, sample}) || importance == T(0)) continue;
    PhiloxWords<Math<T>> words[1] = {{{0, static_cast<uint32_t>(observation) + plan.noise.observation_offset,
                                       static_cast<uint32_t>(sample) + plan.noise.sample_offset, plan.noise.stream}}};
    philox(words, philox_keys<Math<T>>(seed));
    const T exponential = -Math<T>::log(open_uniform<Math<T>>(static_cast<uint32_t>(words[0].word[0])));
    rest += static_cast<double>(importance);
    const Candidate<T> candidate = {importance / exponential, sample};
    if (candidate.precedes(own)) own = candidate;
  }
  rest = sum_of_block(rest);
  const Candidate<T> drawn = first_of_block(own);
  if (threadIdx.x != 0) return;
  const bool found = drawn.sample >= 0;
  const int64_t sample = found ? drawn.sample : 0;
  // The inverse of the probability with which it was drawn.
  choose(plan.budget - 1, sample, found ? static_cast<T>(rest / scales.importance(sample)) : T(0));
  results.used[observation] = used;
}

template <class T>
void selection(const SelectionCall& call) {
  SelectionPlan plan;
  plan.noise = plan_noise(call);
  plan.decoder = view_of(call.decoder, 1);
  plan.encoder = view_of(call.encoder, 1);
  for (int axis = 0; axis < 2; ++axis) {
    plan.decoder_strides[axis] = call.decoder.strides[axis];
    plan.encoder_strides[axis] = call.encoder.strides[axis];
  }
  plan.budget = call.budget;
  plan.rounding = call.rounding;
  launch(selection_kernel<T>, plan.noise.observations, 0, call.cuda_stream, plan,
         SelectionResults<T>{static_cast<int64_t*>(call.chosen_samples), static_cast<T*>(call.chosen_decoder),
                             static_cast<T*>(call.chosen_encoder), static_cast<T*>(call.ratio),
                             static_cast<int64_t*>(call.used)});
}

}  // namespace IWAE_ISA
}  // namespace iwae
