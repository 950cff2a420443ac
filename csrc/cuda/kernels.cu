// The table of all CUDA kernels, called by the bindings. setup.py compiles this file if nvcc is available.
#include "../calls.h"
#include "../with_density.h"
#include "adam.h"
#include "iwae_loss.h"
#include "log_mean_exp.h"
#include "rescale.h"
#include "sample_gaussian.h"
#include "selection.h"
#include "standard_normal.h"
#include "training_step/step.h"
#include "weight_scales.h"

namespace iwae {
namespace IWAE_ISA {

static void run_density(const DensityForwardCall& call) {
  with_density<Math>(call, [&](auto density) {
    using Density = decltype(density);
    log_prob<Density>(call, Operand{}, call.log_prob);
    DensityBackwardCall kept;
    static_cast<DensityCall&>(kept) = call;
    for (int p = 0; p < Density::kParameters; ++p) {
      kept.gradients[p] = contiguous(call.kept[p], accumulation(call), call.shape, call.shape.dims);
    }
    density_backward<Density>(kept, RowCoefficients{});
  });
}

static void run_density_backward(const DensityBackwardCall& call) {
  with_density<Math>(call, [&](auto density) { density_backward<decltype(density)>(call, RowCoefficients{}); });
}

static void run_iwae_loss(const IWAELossCall& call) {
  with_likelihood<Math>(call, [&](auto density) { iwae_loss<decltype(density)>(call); });
}

static void run_iwae_loss_backward(const IWAELossBackwardCall& call) {
  with_likelihood<Math>(call, [&](auto density) { iwae_loss_backward<decltype(density)>(call); });
}

static void run_log_mean_exp(const LogMeanExpCall& call) {
  call.float64 ? log_mean_exp<double>(call) : log_mean_exp<float>(call);
}

static void run_log_mean_exp_backward(const LogMeanExpBackwardCall& call) {
  call.float64 ? log_mean_exp_backward<double>(call) : log_mean_exp_backward<float>(call);
}

static void run_standard_normal(const StandardNormalCall& call) {
  call.float64 ? standard_normal<double>(call) : standard_normal<float>(call);
}

static void run_sample_gaussian(const SampleGaussianCall& call) {
  call.float64 ? sample_gaussian<double>(call) : sample_gaussian<float>(call);
}

static void run_sample_gaussian_backward(const SampleGaussianBackwardCall& call) {
  call.float64 ? sample_gaussian_backward<double>(call) : sample_gaussian_backward<float>(call);
}

template <class Call, class Run>
static void with_storage(const Call& call, const Run& run) {
  switch (call.dtype) {
    case DType::kFloat64: return run(double{}, double{});
    case DType::kBFloat16: return run(float{}, BFloat16{});
    default: return run(float{}, float{});
  }
}

static void run_rescale(const RescaleCall& call) {
  with_storage(call, [&](auto number, auto storage) { rescale<decltype(number), decltype(storage)>(call); });
}

static void run_adam(const AdamCall& call) {
  with_storage(call, [&](auto number, auto storage) { adam<decltype(number), decltype(storage)>(call); });
}

static void run_sum_squares(const SquaresCall& call) {
  with_storage(call, [&](auto number, auto storage) { sum_squares<decltype(number), decltype(storage)>(call); });
}

static void run_weight_scales(const WeightScalesCall& call) {
  call.float64 ? weight_scales<double>(call) : weight_scales<float>(call);
}

static void run_selection(const SelectionCall& call) {
  call.float64 ? selection<double>(call) : selection<float>(call);
}

extern const Kernels kKernels;
const Kernels kKernels = {
    "cuda",
    run_density,
    run_density_backward,
    run_iwae_loss,
    run_iwae_loss_backward,
    run_log_mean_exp,
    run_log_mean_exp_backward,
    run_standard_normal,
    run_sample_gaussian,
    run_sample_gaussian_backward,
    run_rescale,
    nullptr,
    nullptr,
    run_adam,
    run_sum_squares,
    run_weight_scales,
    run_selection,
    training_steps,
    has_cooperative_launch,
};

}  // namespace IWAE_ISA
}  // namespace iwae
