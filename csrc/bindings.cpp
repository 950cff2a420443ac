// The Python module iwae_fast._C: raw pointers, sizes and strides in, nothing out but what was written.
//
// Torch's headers are not needed, so one binary serves every version of torch. Arguments are checked in Python
// (iwae_fast/checks.py, iwae_fast/backends/marshal.py); here only what would overrun a fixed array is.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cstdlib>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "cpu/calls.h"

namespace py = pybind11;

namespace iwae {

#define IWAE_DECLARE(isa)      \
  namespace isa {              \
  extern const Kernels kKernels; \
  }
IWAE_DECLARE(baseline)
#ifdef IWAE_HAVE_X86_64
IWAE_DECLARE(avx2)
IWAE_DECLARE(avx512)
#endif

namespace {

// Best first, those only that this processor can run.
std::vector<const Kernels*> usable_kernels() {
  std::vector<const Kernels*> usable;
#ifdef IWAE_HAVE_X86_64
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl");
  if (avx512) usable.push_back(&avx512::kKernels);
  if (avx2) usable.push_back(&avx2::kKernels);
#endif
  usable.push_back(&baseline::kKernels);
  return usable;
}

// IWAE_FAST_ISA asks for one by name, for tests and for comparing.
const Kernels& choose_kernels() {
  const std::vector<const Kernels*> usable = usable_kernels();
  const char* wanted = std::getenv("IWAE_FAST_ISA");
  if (wanted == nullptr || *wanted == '\0') return *usable.front();
  std::string names;
  for (const Kernels* kernels : usable) {
    if (std::string(wanted) == kernels->isa) return *kernels;
    names += std::string(names.empty() ? "" : ", ") + kernels->isa;
  }
  throw std::runtime_error("IWAE_FAST_ISA=" + std::string(wanted) + " cannot run here: choose one of " + names);
}

const Kernels* chosen = nullptr;

using Sizes = std::vector<int64_t>;
using OperandTuple = std::tuple<uintptr_t, int, Sizes, Sizes>;  // pointer, dtype, sizes, strides

Shape shape_from(const Sizes& sizes) {
  if (sizes.size() > kMaxDims) throw py::value_error("at most 8 axes are supported");
  Shape shape;
  shape.dims = static_cast<int>(sizes.size());
  for (size_t axis = 0; axis < sizes.size(); ++axis) shape.sizes[axis] = sizes[axis];
  return shape;
}

// The leading axes of a call, without its features.
Shape leading(Shape shape) {
  shape.dims -= 1;
  return shape;
}

// The operand as it is read in the call's shape: axes are matched from the last, an axis of size 1 or none has stride 0.
Operand operand_from(const OperandTuple& tuple, const Shape& shape) {
  const auto& [data, dtype, sizes, strides] = tuple;
  const int missing = shape.dims - static_cast<int>(sizes.size());
  if (missing < 0) throw py::value_error("an operand has more axes than its call");
  Operand operand;
  operand.data = reinterpret_cast<char*>(data);
  operand.dtype = static_cast<DType>(dtype);
  for (size_t axis = 0; axis < sizes.size(); ++axis) {
    const int64_t size = shape.sizes[axis + missing];
    if (sizes[axis] != 1 && sizes[axis] != size) throw py::value_error("an operand does not broadcast to its call");
    operand.strides[axis + missing] = sizes[axis] == size ? strides[axis] : 0;
  }
  return operand;
}

Operand operand_from(const std::optional<OperandTuple>& tuple, const Shape& shape) {
  return tuple ? operand_from(*tuple, shape) : Operand{};
}

template <class Tuple>
void operands_from(const std::vector<Tuple>& tuples, const Shape& shape, Operand* out) {
  if (tuples.size() > kMaxParameters) throw py::value_error("at most 3 parameters are supported");
  for (size_t p = 0; p < tuples.size(); ++p) out[p] = operand_from(tuples[p], shape);
}

Reduction reduction_from(const std::string& name) {
  if (name == "none") return Reduction::kNone;
  if (name == "mean") return Reduction::kMean;
  if (name == "sum") return Reduction::kSum;
  throw py::value_error("unknown reduction: " + name);
}

DensityKind density_from(const std::string& name) {
  if (name == "gaussian") return DensityKind::kGaussian;
  if (name == "standard_gaussian") return DensityKind::kStandardGaussian;
  if (name == "bernoulli") return DensityKind::kBernoulli;
  if (name == "biased_bernoulli") return DensityKind::kBiasedBernoulli;
  throw py::value_error("unknown density: " + name);
}

using Parameters = std::vector<OperandTuple>;
using Gradients = std::vector<std::optional<OperandTuple>>;
using Pointers = std::vector<uintptr_t>;  // 0 where there is none
using Mask = std::optional<OperandTuple>;

void fill(DensityCall& call, const std::string& density, bool float64, const Sizes& shape,
          const Parameters& parameters, const Mask& mask, int threads) {
  call.kind = density_from(density);
  call.float64 = float64;
  call.shape = shape_from(shape);
  operands_from(parameters, call.shape, call.parameters);
  call.mask = operand_from(mask, call.shape);
  call.threads = threads;
}

// What a forward pass writes: `kept` has the places of the gradients that it makes too, one a parameter.
void fill(DensityForwardCall& call, uintptr_t log_prob, const Pointers& kept) {
  if (kept.size() > kMaxParameters) throw py::value_error("at most 3 parameters are supported");
  call.log_prob = reinterpret_cast<void*>(log_prob);
  for (size_t p = 0; p < kept.size(); ++p) call.kept[p] = reinterpret_cast<void*>(kept[p]);
}

void density(const std::string& name, bool float64, const Sizes& shape, const Parameters& parameters,
             const Mask& mask, uintptr_t log_prob, const Pointers& kept, int threads) {
  DensityForwardCall call;
  fill(call, name, float64, shape, parameters, mask, threads);
  fill(call, log_prob, kept);
  py::gil_scoped_release release;
  chosen->density(call);
}

void density_backward(const std::string& name, bool float64, const Sizes& shape, const Parameters& parameters,
                      const Mask& mask, const OperandTuple& grad, const Gradients& gradients, int threads) {
  DensityBackwardCall call;
  fill(call, name, float64, shape, parameters, mask, threads);
  call.grad = operand_from(grad, leading(call.shape));
  operands_from(gradients, call.shape, call.gradients);
  py::gil_scoped_release release;
  chosen->density_backward(call);
}

void iwae_loss(const std::string& name, bool float64, const Sizes& shape, const Parameters& parameters,
               const Mask& mask, const OperandTuple& log_ratio, const std::string& reduction, uintptr_t weights,
               uintptr_t loss, uintptr_t bound, const Pointers& kept, int threads) {
  IWAELossCall call;
  fill(call, name, float64, shape, parameters, mask, threads);
  fill(call, weights, kept);
  call.log_ratio = operand_from(log_ratio, leading(call.shape));
  call.reduction = reduction_from(reduction);
  call.loss = reinterpret_cast<void*>(loss);
  call.bound = reinterpret_cast<void*>(bound);
  py::gil_scoped_release release;
  chosen->iwae_loss(call);
}

void iwae_loss_backward(const std::string& name, bool float64, const Sizes& shape, const Parameters& parameters,
                        const Mask& mask, uintptr_t weights, const OperandTuple& grad,
                        const std::string& reduction, uintptr_t grad_log_ratio, const Gradients& gradients, int threads) {
  IWAELossBackwardCall call;
  fill(call, name, float64, shape, parameters, mask, threads);
  call.weights = reinterpret_cast<const void*>(weights);
  call.grad = operand_from(grad, leading(call.shape));
  call.reduction = reduction_from(reduction);
  call.grad_log_ratio = reinterpret_cast<void*>(grad_log_ratio);
  operands_from(gradients, call.shape, call.gradients);
  py::gil_scoped_release release;
  chosen->iwae_loss_backward(call);
}

void log_mean_exp(bool float64, const Sizes& shape, const OperandTuple& log_weights, uintptr_t bound, int threads) {
  LogMeanExpCall call;
  call.float64 = float64;
  call.shape = shape_from(shape);
  call.log_weights = operand_from(log_weights, call.shape);
  call.bound = reinterpret_cast<void*>(bound);
  call.threads = threads;
  py::gil_scoped_release release;
  chosen->log_mean_exp(call);
}

void log_mean_exp_backward(bool float64, const Sizes& shape, const OperandTuple& log_weights,
                           const OperandTuple& grad, const OperandTuple& gradient, int threads) {
  LogMeanExpBackwardCall call;
  call.float64 = float64;
  call.shape = shape_from(shape);
  call.log_weights = operand_from(log_weights, call.shape);
  call.grad = operand_from(grad, call.shape);
  call.gradient = operand_from(gradient, call.shape);
  call.threads = threads;
  py::gil_scoped_release release;
  chosen->log_mean_exp_backward(call);
}

using Triple = std::tuple<int64_t, int64_t, int64_t>;
using Samples = std::optional<OperandTuple>;

Shape shape_of(const NoiseCall& call) { return shape_from({call.samples, call.observations, call.dimensions}); }

// `shape` is (samples, observations, dimensions); `indices` the first sample, the first observation and the stream;
// `samples` the index of each sample for each observation, if they are not counted from the first.
void fill(NoiseCall& call, bool float64, uintptr_t seed, const Samples& samples, const Triple& shape,
          const Triple& indices, int threads) {
  call.float64 = float64;
  call.seed = *reinterpret_cast<const uint64_t*>(seed);
  std::tie(call.samples, call.observations, call.dimensions) = shape;
  std::tie(call.sample_offset, call.observation_offset, call.stream) = indices;
  call.chosen = operand_from(samples, leading(shape_of(call)));
  call.threads = threads;
}

void standard_normal(bool float64, uintptr_t seed, const Samples& samples, const Triple& shape,
                     const Triple& indices, uintptr_t noise, int threads) {
  StandardNormalCall call;
  fill(call, float64, seed, samples, shape, indices, threads);
  call.noise = reinterpret_cast<void*>(noise);
  py::gil_scoped_release release;
  chosen->standard_normal(call);
}

void sample_gaussian(bool float64, uintptr_t seed, const Samples& samples, const Triple& shape,
                     const Triple& indices, const OperandTuple& mean, const OperandTuple& log_std, uintptr_t z,
                     uintptr_t log_ratio, int threads) {
  SampleGaussianCall call;
  fill(call, float64, seed, samples, shape, indices, threads);
  call.mean = operand_from(mean, shape_of(call));
  call.log_std = operand_from(log_std, shape_of(call));
  call.z = reinterpret_cast<void*>(z);
  call.log_ratio = reinterpret_cast<void*>(log_ratio);
  py::gil_scoped_release release;
  chosen->sample_gaussian(call);
}

void sample_gaussian_backward(bool float64, uintptr_t seed, const Samples& samples, const Triple& shape,
                              const Triple& indices, const OperandTuple& mean, const OperandTuple& log_std,
                              const std::optional<OperandTuple>& grad_z,
                              const std::optional<OperandTuple>& grad_log_ratio, bool path_only,
                              const OperandTuple& grad_mean, const OperandTuple& grad_log_std, int threads) {
  SampleGaussianBackwardCall call;
  fill(call, float64, seed, samples, shape, indices, threads);
  call.mean = operand_from(mean, shape_of(call));
  call.log_std = operand_from(log_std, shape_of(call));
  call.grad_z = operand_from(grad_z, shape_of(call));
  call.grad_log_ratio = operand_from(grad_log_ratio, leading(shape_of(call)));
  call.path_only = path_only;
  call.grad_mean = operand_from(grad_mean, shape_of(call));
  call.grad_log_std = operand_from(grad_log_std, shape_of(call));
  py::gil_scoped_release release;
  chosen->sample_gaussian_backward(call);
}

void tanh_layer(bool float64, int64_t rows, int64_t columns, uintptr_t values, uintptr_t bias, int threads) {
  TanhLayerCall call;
  call.float64 = float64;
  call.rows = rows;
  call.columns = columns;
  call.values = reinterpret_cast<void*>(values);
  call.bias = reinterpret_cast<const void*>(bias);
  call.threads = threads;
  py::gil_scoped_release release;
  chosen->tanh_layer(call);
}

void tanh_layer_backward(bool float64, int64_t rows, int64_t columns, uintptr_t values, uintptr_t grad,
                         uintptr_t gradient, uintptr_t bias_gradient, int threads) {
  TanhLayerBackwardCall call;
  call.float64 = float64;
  call.rows = rows;
  call.columns = columns;
  call.values = reinterpret_cast<const void*>(values);
  call.grad = reinterpret_cast<const void*>(grad);
  call.gradient = reinterpret_cast<void*>(gradient);
  call.bias_gradient = reinterpret_cast<void*>(bias_gradient);
  call.threads = threads;
  py::gil_scoped_release release;
  chosen->tanh_layer_backward(call);
}

}  // namespace
}  // namespace iwae

PYBIND11_MODULE(_C, module) {
  using namespace iwae;
  chosen = &choose_kernels();
  module.doc() = "Native kernels of iwae_fast; see iwae_fast/backends/cpu.py for their only caller.";
  module.def("isa", [] { return std::string(chosen->isa); }, "The instruction set in use.");
  module.def(
      "usable_isas",
      [] {
        std::vector<std::string> names;
        for (const Kernels* kernels : usable_kernels()) names.emplace_back(kernels->isa);
        return names;
      },
      "The compiled instruction sets that this processor can run, best first.");
  module.def("has_openmp", [] {
#ifdef _OPENMP
    return true;
#else
    return false;
#endif
  });
  module.def("density", density);
  module.def("density_backward", density_backward);
  module.def("iwae_loss", iwae_loss);
  module.def("iwae_loss_backward", iwae_loss_backward);
  module.def("log_mean_exp", log_mean_exp);
  module.def("log_mean_exp_backward", log_mean_exp_backward);
  module.def("standard_normal", standard_normal);
  module.def("sample_gaussian", sample_gaussian);
  module.def("sample_gaussian_backward", sample_gaussian_backward);
  module.def("tanh_layer", tanh_layer);
  module.def("tanh_layer_backward", tanh_layer_backward);
}
