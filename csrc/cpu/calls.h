// The arguments of each native op, and the table of kernels that one instruction set offers.
//
// Shapes are checked in Python: here every operand already has the strides with which the call's shape reads it.
#pragma once

#include <cstdint>

#include "operand.h"

namespace iwae {

enum class DensityKind : int { kGaussian = 0, kStandardGaussian = 1, kBernoulli = 2, kBiasedBernoulli = 3 };

enum class Reduction : int { kNone = 0, kMean = 1, kSum = 2 };

// A density over the last axis of `shape` (..., D), for all leading axes.
struct DensityCall {
  DensityKind kind = DensityKind::kGaussian;
  bool float64 = false;  // dtype of accumulation and results; float32 otherwise
  Shape shape;
  Operand parameters[kMaxParameters];
  Operand mask;
  int threads = 1;
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

// Shape (k, ...).
struct LogMeanExpCall {
  bool float64 = false;
  Shape shape;
  Operand log_weights;
  void* bound = nullptr;  // (...), contiguous
  int threads = 1;
};

struct LogMeanExpBackwardCall {
  bool float64 = false;
  Shape shape;
  Operand log_weights;
  Operand grad;      // stride 0 along k
  Operand gradient;  // (k, ...)
  int threads = 1;
};

// Noise of shape (samples, observations, dimensions); the offsets are the indices of its first sample and observation.
// `chosen` (samples, observations) of int64 gives the samples' indices one by one instead; null where they are counted.
struct NoiseCall {
  bool float64 = false;
  uint64_t seed = 0;
  int64_t samples = 0, observations = 0, dimensions = 0;
  int64_t sample_offset = 0, observation_offset = 0, stream = 0;
  Operand chosen;
  int threads = 1;
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
struct TanhLayerCall {
  bool float64 = false;
  int64_t rows = 0, columns = 0;
  void* values = nullptr;  // before the tanh, and then after it
  const void* bias = nullptr;
  int threads = 1;
};

struct TanhLayerBackwardCall {
  bool float64 = false;
  int64_t rows = 0, columns = 0;
  const void* values = nullptr;  // after the tanh
  const void* grad = nullptr;
  void* gradient = nullptr;
  void* bias_gradient = nullptr;  // (columns)
  int threads = 1;
};

struct Kernels {
  const char* isa;
  void (*density)(const DensityForwardCall&);
  void (*density_backward)(const DensityBackwardCall&);
  void (*iwae_loss)(const IWAELossCall&);
  void (*iwae_loss_backward)(const IWAELossBackwardCall&);
  void (*log_mean_exp)(const LogMeanExpCall&);
  void (*log_mean_exp_backward)(const LogMeanExpBackwardCall&);
  void (*standard_normal)(const StandardNormalCall&);
  void (*sample_gaussian)(const SampleGaussianCall&);
  void (*sample_gaussian_backward)(const SampleGaussianBackwardCall&);
  void (*tanh_layer)(const TanhLayerCall&);
  void (*tanh_layer_backward)(const TanhLayerBackwardCall&);
};

}  // namespace iwae
