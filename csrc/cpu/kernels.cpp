// All CPU kernels for one instruction set. setup.py compiles this file once per instruction set, with its name in
// IWAE_ISA and the flags that enable it. Everything here is in the namespace of that name, so that the linker does not
// merge functions of different instruction sets.
#include "../calls.h"
#include "../with_density.h"
#include "adam.h"
#include "iwae_loss.h"
#include "log_mean_exp.h"
#include "sample_gaussian.h"
#include "standard_normal.h"
#include "tanh_layer.h"
#include "weight_scales.h"

#define IWAE_STRING_(x) #x
#define IWAE_STRING(x) IWAE_STRING_(x)

namespace iwae {
namespace IWAE_ISA {

static void run_density(const DensityForwardCall& call) {
  with_density<Simd>(call, [&](auto density) { density_forward<decltype(density)>(call); });
}

static void run_density_backward(const DensityBackwardCall& call) {
  with_density<Simd>(call, [&](auto density) { density_backward<decltype(density)>(call); });
}

static void run_iwae_loss(const IWAELossCall& call) {
  with_likelihood<Simd>(call, [&](auto density) { iwae_loss_forward<decltype(density)>(call); });
}

static void run_iwae_loss_backward(const IWAELossBackwardCall& call) {
  with_likelihood<Simd>(call, [&](auto density) { iwae_loss_gradient<decltype(density)>(call); });
}

static void run_log_mean_exp(const LogMeanExpCall& call) {
  call.float64 ? log_mean_exp_forward<double>(call) : log_mean_exp_forward<float>(call);
}

static void run_log_mean_exp_backward(const LogMeanExpBackwardCall& call) {
  call.float64 ? log_mean_exp_gradient<double>(call) : log_mean_exp_gradient<float>(call);
}

static void run_standard_normal(const StandardNormalCall& call) {
  call.float64 ? standard_normal<double>(call) : standard_normal<float>(call);
}

static void run_sample_gaussian(const SampleGaussianCall& call) {
  call.float64 ? sample_gaussian_forward<double>(call) : sample_gaussian_forward<float>(call);
}

static void run_sample_gaussian_backward(const SampleGaussianBackwardCall& call) {
  call.float64 ? sample_gaussian_gradient<double>(call) : sample_gaussian_gradient<float>(call);
}

static void run_tanh_layer(const TanhLayerCall& call) {
  call.float64 ? tanh_layer_forward<double>(call) : tanh_layer_forward<float>(call);
}

static void run_tanh_layer_backward(const TanhLayerBackwardCall& call) {
  call.float64 ? tanh_layer_gradient<double>(call) : tanh_layer_gradient<float>(call);
}

template <class Call, class Run>
static void with_storage(const Call& call, const Run& run) {
  switch (call.dtype) {
    case DType::kFloat64: return run(double{}, double{});
    case DType::kBFloat16: return run(float{}, BFloat16{});
    default: return run(float{}, float{});
  }
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

extern const Kernels kKernels;
const Kernels kKernels = {
    IWAE_STRING(IWAE_ISA),
    run_density,
    run_density_backward,
    run_iwae_loss,
    run_iwae_loss_backward,
    run_log_mean_exp,
    run_log_mean_exp_backward,
    run_standard_normal,
    run_sample_gaussian,
    run_sample_gaussian_backward,
    nullptr,
    run_tanh_layer,
    run_tanh_layer_backward,
    run_adam,
    run_sum_squares,
    run_weight_scales,
    nullptr,
    nullptr,
    nullptr,
};

}  // namespace IWAE_ISA
}  // namespace iwae
