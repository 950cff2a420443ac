// The arguments of each native op, and the table of kernels that an instruction set, or CUDA, offers.
//
// Shapes are checked in Python: here every operand already has the strides with which the call's shape reads it.
#pragma once

#include <cstdint>

#include "operand.h"

namespace iwae {

enum class DensityKind : int { kGaussian = 0, kStandardGaussian = 1, kBernoulli = 2, kBiasedBernoulli = 3 };

enum class Reduction : int { kNone = 0, kMean = 1, kSum = 2 };

// What a call runs on: so many threads of the CPU, or a stream of the GPU (cudaStream_t).
struct Place {
  int threads = 1;
  void* cuda_stream = nullptr;
  // Memory of the GPU, which nothing else uses before the work that the call leaves on the stream is done.
  void* (*allocate)(void* allocator, int64_t bytes) = nullptr;
  void* allocator = nullptr;
};

// A density over the last axis of `shape` (..., D), for all leading axes.
struct DensityCall : Place {
  DensityKind kind = DensityKind::kGaussian;
  bool float64 = false;  // dtype of accumulation and results; float32 otherwise
  Shape shape;
  Operand parameters[kMaxParameters];
  Operand mask;
};

struct DensityForwardCall : DensityCall {
  void* log_prob = nullptr;            // (...), contiguous; of the fused loss, its log-weights
  void* kept[kMaxParameters] = {};     // gradients that the forward pass makes too, where wanted: (..., D), contiguous,
                                       // in the dtype of accumulation; perhaps in place of their parameters
};

// Gradients are null where not wanted. `grad` has the leading axes only.
struct DensityBackwardCall : DensityCall {
  Operand grad;
  Operand gradients[kMaxParameters];
};

// Shape (k, ..., D); the log-ratio has (k, ...). `log_prob` (k, ...) becomes the normalised weights; what is kept is the
// gradient of the loss.
struct IWAELossCall : DensityForwardCall {
  Operand log_ratio;
  Reduction reduction = Reduction::kNone;
  void* loss = nullptr;   // (...), one number if reduced
  void* bound = nullptr;  // (...), null where not wanted
};

// `weights` and `grad_log_ratio` (k, ...) are contiguous; `grad` has stride 0 along k and wherever it was reduced.
struct IWAELossBackwardCall : DensityCall {
  const void* weights = nullptr;
  Operand grad;
  Reduction reduction = Reduction::kNone;
  void* grad_log_ratio = nullptr;
  Operand gradients[kMaxParameters];
};

// Of shape (k, ..., D) in the dtype of the call, contiguous, in place: times the incoming gradient, and 0 where the
// weight (k, ...) is. The incoming gradient has stride 0 along k, and everywhere where it is one number.
struct RescaleCall : Place {
  bool float64 = false;
  Shape shape;
  void* gradient = nullptr;
  const void* weights = nullptr;
  Operand grad;
};

// Shape (k, ...).
struct LogMeanExpCall : Place {
  bool float64 = false;
  Shape shape;
  Operand log_weights;
  void* bound = nullptr;  // (...), contiguous
};

struct LogMeanExpBackwardCall : Place {
  bool float64 = false;
  Shape shape;
  Operand log_weights;
  Operand grad;      // stride 0 along k
  Operand gradient;  // (k, ...)
};

// Noise of shape (samples, observations, dimensions); the offsets are the indices of its first sample and observation.
// `chosen` (samples, observations) of int64 gives the samples' indices one by one instead; null where they are counted.
struct NoiseCall : Place {
  bool float64 = false;
  const uint64_t* seed = nullptr;  // where the samples are: of the GPU's memory, for its kernels
  int64_t samples = 0, observations = 0, dimensions = 0;
  int64_t sample_offset = 0, observation_offset = 0, stream = 0;
  Operand chosen;
};

struct StandardNormalCall : NoiseCall {
  void* noise = nullptr;  // contiguous
};

struct SampleGaussianCall : NoiseCall {
  Operand mean, log_std;      // stride 0 along the samples
  void* z = nullptr;          // contiguous
  void* log_ratio = nullptr;  // (samples, observations), contiguous
};

// The incoming gradients are null where there are none.
struct SampleGaussianBackwardCall : NoiseCall {
  Operand mean, log_std;
  Operand grad_z, grad_log_ratio;
  bool path_only = false;
  Operand grad_mean, grad_log_std;  // (observations, dimensions), contiguous
};

// Contiguous (rows, columns), in float32 or float64; the bias (columns) may be null.
struct TanhLayerCall : Place {
  bool float64 = false;
  int64_t rows = 0, columns = 0;
  void* values = nullptr;  // before the tanh, and then after it
  const void* bias = nullptr;
};

struct TanhLayerBackwardCall : Place {
  bool float64 = false;
  int64_t rows = 0, columns = 0;
  const void* values = nullptr;  // after the tanh
  const void* grad = nullptr;
  void* gradient = nullptr;
  void* bias_gradient = nullptr;  // (columns)
};

// Null where there is none: layers are the CPU's, and rescaling without a look at the numbers the GPU's.
struct Kernels {
  const char* isa;  // or what stands for it
  void (*density)(const DensityForwardCall&);
  void (*density_backward)(const DensityBackwardCall&);
  void (*iwae_loss)(const IWAELossCall&);
  void (*iwae_loss_backward)(const IWAELossBackwardCall&);
  void (*log_mean_exp)(const LogMeanExpCall&);
  void (*log_mean_exp_backward)(const LogMeanExpBackwardCall&);
  void (*standard_normal)(const StandardNormalCall&);
  void (*sample_gaussian)(const SampleGaussianCall&);
  void (*sample_gaussian_backward)(const SampleGaussianBackwardCall&);
  void (*rescale)(const RescaleCall&);
  void (*tanh_layer)(const TanhLayerCall&);
  void (*tanh_layer_backward)(const TanhLayerBackwardCall&);
};

}  // namespace iwae
