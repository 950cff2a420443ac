// The arguments of each native op, and the table of kernels of an instruction set or of CUDA.
//
// Shapes are checked in Python: here every operand already has strides for the call's shape, 0 where it broadcasts.
#pragma once

#include <cstdint>

#include "densities.h"
#include "operand.h"
#include "training_items.h"

namespace iwae {

enum class Reduction : int { kNone = 0, kMean = 1, kSum = 2 };

// The resources of a call: a number of CPU threads, or a stream of the GPU (cudaStream_t).
struct Place {
  int threads = 1;
  void* cuda_stream = nullptr;
  // GPU memory, not reused before the work that the call enqueues on the stream is done.
  void* (*allocate)(void* allocator, int64_t bytes) = nullptr;
  void* allocator = nullptr;
};

// A density over the last axis of `shape` (..., D), for all leading axes.
struct DensityCall : Place {
  DensityKind kind = DensityKind{};
  bool float64 = false;  // dtype of accumulation and results; float32 otherwise
  Shape shape;
  Operand parameters[kMaxParameters];
  Operand mask;
};

struct DensityForwardCall : DensityCall {
  void* log_prob = nullptr;            // (...), contiguous; the log-weights in the fused loss
  void* kept[kMaxParameters] = {};     // gradients computed by the forward pass, null if not requested: (..., D),
                                       // contiguous, in the dtype of accumulation; may alias their parameters
};

// Gradients are null if not requested. `grad` has the leading axes only.
struct DensityBackwardCall : DensityCall {
  Operand grad;
  Operand gradients[kMaxParameters];
};

// Shape (k, ..., D); the log-ratio has (k, ...). `log_prob` (k, ...) is overwritten by the normalized weights; `kept`
// are gradients of the loss, in the dtypes of their parameters: that of accumulation or, on the GPU, bfloat16.
struct IWAELossCall : DensityForwardCall {
  Operand log_ratio;
  Reduction reduction = Reduction::kNone;
  void* loss = nullptr;   // (...), or one number if reduced
  void* bound = nullptr;  // (...), null if not requested
};

// `weights` and `grad_log_ratio` (k, ...) are contiguous; `grad` has stride 0 along k and along reduced axes.
struct IWAELossBackwardCall : DensityCall {
  const void* weights = nullptr;
  Operand grad;
  Reduction reduction = Reduction::kNone;
  void* grad_log_ratio = nullptr;
  Operand gradients[kMaxParameters];
};

// Multiplies a contiguous gradient (k, ..., D) in place by the upstream gradient; the result is 0 where the weight
// (k, ...) is 0. The upstream gradient has stride 0 along k, and along all axes if it is one number. The weights are
// float64 for a gradient of float64, and float32 otherwise.
struct RescaleCall : Place {
  DType dtype = DType::kFloat32;
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

// Shape (k, ...). The weights v are those of w^power, normalized; the scales are those of csrc/math/weight_scales.h.
struct WeightScalesCall : Place {
  bool float64 = false;
  Shape shape;
  Operand log_weights;
  double power = 1.0, factor = 1.0, linear = 1.0, quadratic = 0.0, rounding = 0.0;
  void* value = nullptr;  // log of the mean of w^power, divided by the power: (...), contiguous
  Operand decoder, encoder, ratio;  // (k, ...), of the same strides, in the dtype of accumulation
};

// Noise of shape (samples, observations, dimensions); the offsets are the indices of its first sample and observation.
// `chosen`, int64 (samples, observations), gives the index of each sample instead; null if they are counted.
struct NoiseCall : Place {
  bool float64 = false;
  const uint64_t* seed = nullptr;  // in GPU memory for the GPU kernels
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

// Scales of shape (samples, observations), of which `budget` samples are chosen per observation: csrc/cuda/selection.h.
struct SelectionCall : NoiseCall {
  Operand decoder, encoder;
  int64_t budget = 0;
  double rounding = 0.0;
  void* chosen_samples = nullptr;  // int64 (budget, observations), contiguous, as all results
  void* chosen_decoder = nullptr;
  void* chosen_encoder = nullptr;
  void* ratio = nullptr;
  void* used = nullptr;  // int64 (observations)
};

// The upstream gradients are null if not given.
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
  void* values = nullptr;  // input of the tanh, overwritten by its output
  const void* bias = nullptr;
};

struct TanhLayerBackwardCall : Place {
  bool float64 = false;
  int64_t rows = 0, columns = 0;
  const void* values = nullptr;  // output of the tanh
  const void* grad = nullptr;
  void* gradient = nullptr;
  void* bias_gradient = nullptr;  // (columns)
};

// Elements of a tensor that an optimizer's kernels handle together; as CHUNK in iwae_fast/backends/marshal.py.
constexpr int64_t kChunk = 2048;

// An empty tensor has one chunk: its steps are counted too.
IWAE_SHARED int64_t chunks_of(int64_t size) { return size < kChunk ? 1 : (size + kChunk - 1) / kChunk; }

// A parameter with its gradient and Adam's state: contiguous memory of one layout and dtype, and the number of steps
// taken.
struct AdamTensor {
  void* parameter;
  void* gradient;
  void* first;
  void* second;
  float* step;
  int64_t size;
};

struct AdamSettings {
  double rate, beta1, beta2, log_beta1, log_beta2, eps, weight_decay;
  double max_norm;    // of all gradients, if `clips`
  bool clips;
  bool decoupled;     // weight decay, as in AdamW
  bool maximize;
  bool corrects_eps;  // eps is added to the square root before the bias correction divides it
};

// A step of Adam. The gradients are divided by `scale`, in memory too; nothing happens if `found_inf` is not 0.
struct AdamCall : Place {
  DType dtype = DType::kFloat32;
  const AdamTensor* tensors = nullptr;
  int64_t count = 0;
  AdamSettings settings;
  Operand rate;                      // a number in place of that of the settings; null if not given
  const float* scale = nullptr;      // null if not given
  const float* found_inf = nullptr;  // null if not given
  const double* squares = nullptr;   // whose sum is that of all squared gradients, if the settings clip
  int64_t squares_count = 0;
  void* turns = nullptr;             // 32 bits that are 0, on the GPU; 0 again after the call
};

// Sums of squared gradients, one per chunk.
struct SquaresCall : Place {
  DType dtype = DType::kFloat32;
  const AdamTensor* tensors = nullptr;  // only gradients and sizes
  int64_t count = 0;
  double* squares = nullptr;
};

// Training steps in one launch: the plan, the objective, Adam, and where results go, in device memory.
struct TrainingRun {
  TrainingProgram program;
  TrainingObjective objective;
  TrainingInputs inputs;
  AdamSettings adam;
  float* coefficients = nullptr;  // of Adam, per tensor
  float* metrics = nullptr;       // (steps, 3, batch): bound, effective sample size, largest weight
  unsigned* counter = nullptr;    // of the blocks' barrier
  int32_t steps = 0;
};

struct TrainingCall : Place, TrainingRun {
  bool tf32 = false;  // products in TF32, not in float32 accuracy
};

// The kernels of one instruction set or of CUDA. tanh_layer* exist only on the CPU, rescale, selection and
// training steps only on the GPU; null otherwise.
struct Kernels {
  const char* isa;  // the name of the instruction set, or "cuda"
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
  void (*adam)(const AdamCall&);
  void (*sum_squares)(const SquaresCall&);
  void (*weight_scales)(const WeightScalesCall&);
  void (*selection)(const SelectionCall&);
  void (*training_steps)(const TrainingCall&);
  bool (*has_cooperative_launch)();  // of the current device
};

}  // namespace iwae
