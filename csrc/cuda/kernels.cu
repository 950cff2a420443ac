// The table of all CUDA kernels, called by the bindings. setup.py compiles this file if nvcc is available.
#include "../calls.h"
#include "bernoulli_log_prob.h"
#include "gaussian_log_prob.h"
#include "iwae_loss.h"
#include "log_mean_exp.h"
#include "rescale.h"
#include "sample_gaussian.h"
#include "standard_gaussian_log_prob.h"
#include "standard_normal.h"

namespace iwae {
namespace IWAE_ISA {

// Calls body with the likelihood of a call, in the dtype of its computation.
template <class T, class Body>
static void with_likelihood(DensityKind kind, const Body& body) {
  switch (kind) {
    case DensityKind::kGaussian: return body(GaussianDensity<T>{});
    case DensityKind::kBernoulli: return body(BernoulliDensity<T>{});
    case DensityKind::kBiasedBernoulli: return body(BiasedBernoulliDensity<T>{});
    case DensityKind::kStandardGaussian: return;  // not a likelihood, since it has no parameters
  }
}

template <class Body>
static void with_likelihood(const DensityCall& call, const Body& body) {
  call.float64 ? with_likelihood<double>(call.kind, body) : with_likelihood<float>(call.kind, body);
}

// Calls body with any density, in the dtype of its computation.
template <class Body>
static void with_density(const DensityCall& call, const Body& body) {
  if (call.kind != DensityKind::kStandardGaussian) return with_likelihood(call, body);
  call.float64 ? body(StandardGaussianDensity<double>{}) : body(StandardGaussianDensity<float>{});
}

static void run_density(const DensityForwardCall& call) {
  with_density(call, [&](auto density) {
    using Density = decltype(density);
    log_prob<Density>(call, Operand{}, call.log_prob);
    DensityBackwardCall kept;
    static_cast<DensityCall&>(kept) = call;
    for (int p = 0; p < Density::kParameters; ++p) {
      kept.gradients[p] = contiguous(call.kept[p], accumulation(call), call.shape, call.shape.dims);
    }
    density_backward<Density>(kept, Coefficients{});
  });
}

static void run_density_backward(const DensityBackwardCall& call) {
  with_density(call, [&](auto density) { density_backward<decltype(density)>(call, Coefficients{}); });
}

static void run_iwae_loss(const IWAELossCall& call) {
  with_likelihood(call, [&](auto density) { iwae_loss<decltype(density)>(call); });
}

static void run_iwae_loss_backward(const IWAELossBackwardCall& call) {
  with_likelihood(call, [&](auto density) { iwae_loss_backward<decltype(density)>(call); });
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

static void run_rescale(const RescaleCall& call) { call.float64 ? rescale<double>(call) : rescale<float>(call); }

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
};

}  // namespace IWAE_ISA
}  // namespace iwae
