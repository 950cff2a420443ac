// The Python bindings of the ops, for CPU and GPU: they take raw pointers, sizes and strides, and write their results
// to memory that the caller allocated.
//
// Torch's headers are not needed, so one binary works with every version of torch. Arguments are checked in Python
// (iwae_fast/checks.py, iwae_fast/backends/marshal.py); only overruns of fixed-size arrays are checked here.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <cmath>
#include <optional>
#include <stdexcept>
#include <string>
#include <tuple>
#include <vector>

#include "calls.h"

namespace iwae {

namespace py = pybind11;

// The device of an op: the argument that Python passes with each call, and whether the GIL is released during the call.
struct OnCPU {
  using Argument = int;  // threads
  using Release = py::gil_scoped_release;

  static void take(Place& place, const Argument& threads) { place.threads = threads; }
};

struct OnGPU {
  using Argument = std::tuple<uintptr_t, py::function>;  // the stream, and an allocator: bytes -> pointer
  struct Release {                               // keeps the GIL: launches take microseconds and may call the allocator
    Release() {}
  };

  static void take(Place& place, const Argument& where) {
    place.cuda_stream = reinterpret_cast<void*>(std::get<0>(where));
    place.allocator = const_cast<py::function*>(&std::get<1>(where));
    place.allocate = [](void* allocator, int64_t bytes) {
      return reinterpret_cast<void*>((*static_cast<py::function*>(allocator))(bytes).template cast<uintptr_t>());
    };
  }
};

template <class On>
using Where = typename On::Argument;

template <class On>
inline const Kernels* kernels_of = nullptr;

using Sizes = std::vector<int64_t>;
using OperandTuple = std::tuple<uintptr_t, int, Sizes, Sizes>;  // pointer, dtype, sizes, strides

inline Shape shape_from(const Sizes& sizes) {
  if (sizes.size() > kMaxDims) throw py::value_error("at most 8 axes are supported");
  Shape shape;
  shape.dims = static_cast<int>(sizes.size());
  for (size_t axis = 0; axis < sizes.size(); ++axis) shape.sizes[axis] = sizes[axis];
  return shape;
}

// The leading axes of a call, without its features.
inline Shape leading(Shape shape) {
  shape.dims -= 1;
  return shape;
}

// The operand broadcast to the call's shape: axes are matched from the last; an axis that is missing or of size 1 has
// stride 0.
inline Operand operand_from(const OperandTuple& tuple, const Shape& shape) {
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

inline Operand operand_from(const std::optional<OperandTuple>& tuple, const Shape& shape) {
  return tuple ? operand_from(*tuple, shape) : Operand{};
}

inline void check_parameters(size_t count) {
  if (count > kMaxParameters) {
    throw py::value_error("at most " + std::to_string(kMaxParameters) + " parameters are supported, got " +
                          std::to_string(count));
  }
}

template <class Tuple>
inline void operands_from(const std::vector<Tuple>& tuples, const Shape& shape, Operand* out) {
  check_parameters(tuples.size());
  for (size_t p = 0; p < tuples.size(); ++p) out[p] = operand_from(tuples[p], shape);
}

inline Reduction reduction_from(const std::string& name) {
  if (name == "none") return Reduction::kNone;
  if (name == "mean") return Reduction::kMean;
  if (name == "sum") return Reduction::kSum;
  throw py::value_error("unknown reduction: " + name);
}

inline DensityKind density_from(const std::string& name) {
#define IWAE_NAME(Name, python_name) \
  if (name == #python_name) return DensityKind::k##Name;
  IWAE_DENSITIES(IWAE_NAME)
#undef IWAE_NAME
  throw py::value_error("unknown density: " + name);
}

using Parameters = std::vector<OperandTuple>;
using Gradients = std::vector<std::optional<OperandTuple>>;
using Pointers = std::vector<uintptr_t>;  // 0 if not given
using Mask = std::optional<OperandTuple>;

template <class On>
void fill(DensityCall& call, const std::string& density, bool float64, const Sizes& shape,
          const Parameters& parameters, const Mask& mask, const Where<On>& where) {
  call.kind = density_from(density);
  call.float64 = float64;
  call.shape = shape_from(shape);
  operands_from(parameters, call.shape, call.parameters);
  call.mask = operand_from(mask, call.shape);
  On::take(call, where);
}

// The outputs of a forward pass; `kept` points to the gradients that it computes as well, one per parameter.
inline void fill(DensityForwardCall& call, uintptr_t log_prob, const Pointers& kept) {
  check_parameters(kept.size());
  call.log_prob = reinterpret_cast<void*>(log_prob);
  for (size_t p = 0; p < kept.size(); ++p) call.kept[p] = reinterpret_cast<void*>(kept[p]);
}

template <class On>
void density(const std::string& name, bool float64, const Sizes& shape, const Parameters& parameters,
             const Mask& mask, uintptr_t log_prob, const Pointers& kept, const Where<On>& where) {
  DensityForwardCall call;
  fill<On>(call, name, float64, shape, parameters, mask, where);
  fill(call, log_prob, kept);
  typename On::Release release;
  kernels_of<On>->density(call);
}

template <class On>
void density_backward(const std::string& name, bool float64, const Sizes& shape, const Parameters& parameters,
                      const Mask& mask, const OperandTuple& grad, const Gradients& gradients, const Where<On>& where) {
  DensityBackwardCall call;
  fill<On>(call, name, float64, shape, parameters, mask, where);
  call.grad = operand_from(grad, leading(call.shape));
  operands_from(gradients, call.shape, call.gradients);
  typename On::Release release;
  kernels_of<On>->density_backward(call);
}

template <class On>
void iwae_loss(const std::string& name, bool float64, const Sizes& shape, const Parameters& parameters,
               const Mask& mask, const OperandTuple& log_ratio, const std::string& reduction, uintptr_t weights,
               uintptr_t loss, uintptr_t bound, const Pointers& kept, const Where<On>& where) {
  IWAELossCall call;
  fill<On>(call, name, float64, shape, parameters, mask, where);
  fill(call, weights, kept);
  call.log_ratio = operand_from(log_ratio, leading(call.shape));
  call.reduction = reduction_from(reduction);
  call.loss = reinterpret_cast<void*>(loss);
  call.bound = reinterpret_cast<void*>(bound);
  typename On::Release release;
  kernels_of<On>->iwae_loss(call);
}

template <class On>
void iwae_loss_backward(const std::string& name, bool float64, const Sizes& shape, const Parameters& parameters,
                        const Mask& mask, uintptr_t weights, const OperandTuple& grad,
                        const std::string& reduction, uintptr_t grad_log_ratio, const Gradients& gradients,
                        const Where<On>& where) {
  IWAELossBackwardCall call;
  fill<On>(call, name, float64, shape, parameters, mask, where);
  call.weights = reinterpret_cast<const void*>(weights);
  call.grad = operand_from(grad, leading(call.shape));
  call.reduction = reduction_from(reduction);
  call.grad_log_ratio = reinterpret_cast<void*>(grad_log_ratio);
  operands_from(gradients, call.shape, call.gradients);
  typename On::Release release;
  kernels_of<On>->iwae_loss_backward(call);
}

template <class On>
void rescale(int dtype, const Sizes& shape, uintptr_t gradient, uintptr_t weights, const OperandTuple& grad,
             const Where<On>& where) {
  RescaleCall call;
  call.dtype = static_cast<DType>(dtype);
  call.shape = shape_from(shape);
  call.gradient = reinterpret_cast<void*>(gradient);
  call.weights = reinterpret_cast<const void*>(weights);
  call.grad = operand_from(grad, leading(call.shape));
  On::take(call, where);
  typename On::Release release;
  kernels_of<On>->rescale(call);
}

template <class On>
void log_mean_exp(bool float64, const Sizes& shape, const OperandTuple& log_weights, uintptr_t bound,
                  const Where<On>& where) {
  LogMeanExpCall call;
  call.float64 = float64;
  call.shape = shape_from(shape);
  call.log_weights = operand_from(log_weights, call.shape);
  call.bound = reinterpret_cast<void*>(bound);
  On::take(call, where);
  typename On::Release release;
  kernels_of<On>->log_mean_exp(call);
}

template <class On>
void log_mean_exp_backward(bool float64, const Sizes& shape, const OperandTuple& log_weights,
                           const OperandTuple& grad, const OperandTuple& gradient, const Where<On>& where) {
  LogMeanExpBackwardCall call;
  call.float64 = float64;
  call.shape = shape_from(shape);
  call.log_weights = operand_from(log_weights, call.shape);
  call.grad = operand_from(grad, call.shape);
  call.gradient = operand_from(gradient, call.shape);
  On::take(call, where);
  typename On::Release release;
  kernels_of<On>->log_mean_exp_backward(call);
}

// `numbers` are the power, the factor, the linear and the quadratic coefficient, and the rounding.
template <class On>
void weight_scales(bool float64, const Sizes& shape, const OperandTuple& log_weights,
                   const std::vector<double>& numbers, uintptr_t value, const OperandTuple& decoder,
                   const OperandTuple& encoder, const OperandTuple& ratio, const Where<On>& where) {
  if (numbers.size() != 5) throw py::value_error("expected 5 numbers");
  WeightScalesCall call;
  call.float64 = float64;
  call.shape = shape_from(shape);
  call.log_weights = operand_from(log_weights, call.shape);
  call.power = numbers[0];
  call.factor = numbers[1];
  call.linear = numbers[2];
  call.quadratic = numbers[3];
  call.rounding = numbers[4];
  call.value = reinterpret_cast<void*>(value);
  call.decoder = operand_from(decoder, call.shape);
  call.encoder = operand_from(encoder, call.shape);
  call.ratio = operand_from(ratio, call.shape);
  On::take(call, where);
  typename On::Release release;
  kernels_of<On>->weight_scales(call);
}

using Triple = std::tuple<int64_t, int64_t, int64_t>;
using Samples = std::optional<OperandTuple>;

inline Shape shape_of(const NoiseCall& call) { return shape_from({call.samples, call.observations, call.dimensions}); }

// `shape` is (samples, observations, dimensions). `indices` are the first sample, the first observation and the stream.
// `samples`, if given, has the index of each sample of each observation; otherwise they are counted from the first.
template <class On>
void fill(NoiseCall& call, bool float64, uintptr_t seed, const Samples& samples, const Triple& shape,
          const Triple& indices, const Where<On>& where) {
  call.float64 = float64;
  call.seed = reinterpret_cast<const uint64_t*>(seed);
  std::tie(call.samples, call.observations, call.dimensions) = shape;
  std::tie(call.sample_offset, call.observation_offset, call.stream) = indices;
  call.chosen = operand_from(samples, leading(shape_of(call)));
  On::take(call, where);
}

template <class On>
void standard_normal(bool float64, uintptr_t seed, const Samples& samples, const Triple& shape,
                     const Triple& indices, uintptr_t noise, const Where<On>& where) {
  StandardNormalCall call;
  fill<On>(call, float64, seed, samples, shape, indices, where);
  call.noise = reinterpret_cast<void*>(noise);
  typename On::Release release;
  kernels_of<On>->standard_normal(call);
}

// `results` are pointers: the chosen samples, their scales in decoder and encoder, the ratio, and the number used.
template <class On>
void selection(bool float64, uintptr_t seed, const Triple& shape, const Triple& indices, const OperandTuple& decoder,
               const OperandTuple& encoder, int64_t budget, double rounding, const Pointers& results,
               const Where<On>& where) {
  if (results.size() != 5) throw py::value_error("expected 5 results");
  SelectionCall call;
  fill<On>(call, float64, seed, std::nullopt, shape, indices, where);
  call.decoder = operand_from(decoder, leading(shape_of(call)));
  call.encoder = operand_from(encoder, leading(shape_of(call)));
  call.budget = budget;
  call.rounding = rounding;
  call.chosen_samples = reinterpret_cast<void*>(results[0]);
  call.chosen_decoder = reinterpret_cast<void*>(results[1]);
  call.chosen_encoder = reinterpret_cast<void*>(results[2]);
  call.ratio = reinterpret_cast<void*>(results[3]);
  call.used = reinterpret_cast<void*>(results[4]);
  typename On::Release release;
  kernels_of<On>->selection(call);
}

template <class On>
void sample_gaussian(bool float64, uintptr_t seed, const Samples& samples, const Triple& shape,
                     const Triple& indices, const OperandTuple& mean, const OperandTuple& log_std, uintptr_t z,
                     uintptr_t log_ratio, const Where<On>& where) {
  SampleGaussianCall call;
  fill<On>(call, float64, seed, samples, shape, indices, where);
  call.mean = operand_from(mean, shape_of(call));
  call.log_std = operand_from(log_std, shape_of(call));
  call.z = reinterpret_cast<void*>(z);
  call.log_ratio = reinterpret_cast<void*>(log_ratio);
  typename On::Release release;
  kernels_of<On>->sample_gaussian(call);
}

template <class On>
void sample_gaussian_backward(bool float64, uintptr_t seed, const Samples& samples, const Triple& shape,
                              const Triple& indices, const OperandTuple& mean, const OperandTuple& log_std,
                              const std::optional<OperandTuple>& grad_z,
                              const std::optional<OperandTuple>& grad_log_ratio, bool path_only,
                              const OperandTuple& grad_mean, const OperandTuple& grad_log_std, const Where<On>& where) {
  SampleGaussianBackwardCall call;
  fill<On>(call, float64, seed, samples, shape, indices, where);
  call.mean = operand_from(mean, shape_of(call));
  call.log_std = operand_from(log_std, shape_of(call));
  call.grad_z = operand_from(grad_z, shape_of(call));
  call.grad_log_ratio = operand_from(grad_log_ratio, leading(shape_of(call)));
  call.path_only = path_only;
  call.grad_mean = operand_from(grad_mean, shape_of(call));
  call.grad_log_std = operand_from(grad_log_std, shape_of(call));
  typename On::Release release;
  kernels_of<On>->sample_gaussian_backward(call);
}

template <class On>
void tanh_layer(bool float64, int64_t rows, int64_t columns, uintptr_t values, uintptr_t bias, const Where<On>& where) {
  TanhLayerCall call;
  call.float64 = float64;
  call.rows = rows;
  call.columns = columns;
  call.values = reinterpret_cast<void*>(values);
  call.bias = reinterpret_cast<const void*>(bias);
  On::take(call, where);
  typename On::Release release;
  kernels_of<On>->tanh_layer(call);
}

template <class On>
void tanh_layer_backward(bool float64, int64_t rows, int64_t columns, uintptr_t values, uintptr_t grad,
                         uintptr_t gradient, uintptr_t bias_gradient, const Where<On>& where) {
  TanhLayerBackwardCall call;
  call.float64 = float64;
  call.rows = rows;
  call.columns = columns;
  call.values = reinterpret_cast<const void*>(values);
  call.grad = reinterpret_cast<const void*>(grad);
  call.gradient = reinterpret_cast<void*>(gradient);
  call.bias_gradient = reinterpret_cast<void*>(bias_gradient);
  On::take(call, where);
  typename On::Release release;
  kernels_of<On>->tanh_layer_backward(call);
}

using AdamTuple = std::tuple<uintptr_t, uintptr_t, uintptr_t, uintptr_t, uintptr_t, int64_t>;

// Pointers of a parameter, its gradient, the state and the step, and the number of elements.
inline std::vector<AdamTensor> adam_tensors(const std::vector<AdamTuple>& tuples) {
  std::vector<AdamTensor> tensors;
  tensors.reserve(tuples.size());
  for (const auto& [parameter, gradient, first, second, step, size] : tuples) {
    tensors.push_back({reinterpret_cast<void*>(parameter), reinterpret_cast<void*>(gradient),
                       reinterpret_cast<void*>(first), reinterpret_cast<void*>(second), reinterpret_cast<float*>(step),
                       size});
  }
  return tensors;
}

// `numbers` are lr, beta1, beta2, eps, weight_decay and the norm to which gradients are clipped, if there is one.
template <class On>
void adam(int dtype, const std::vector<AdamTuple>& tensors, const std::vector<double>& numbers, bool decoupled,
          bool maximize, bool corrects_eps, const std::optional<OperandTuple>& rate, uintptr_t scale,
          uintptr_t found_inf, uintptr_t squares, int64_t squares_count, uintptr_t turns, const Where<On>& where) {
  if (numbers.size() != 5 && numbers.size() != 6) throw py::value_error("expected 5 or 6 numbers");
  const std::vector<AdamTensor> table = adam_tensors(tensors);
  AdamCall call;
  call.dtype = static_cast<DType>(dtype);
  call.tensors = table.data();
  call.count = static_cast<int64_t>(table.size());
  call.settings = {numbers[0], numbers[1], numbers[2], std::log(numbers[1]), std::log(numbers[2]), numbers[3],
                   numbers[4], numbers.size() == 6 ? numbers[5] : 0.0, numbers.size() == 6, decoupled, maximize,
                   corrects_eps};
  call.rate = operand_from(rate, Shape{});
  call.scale = reinterpret_cast<const float*>(scale);
  call.found_inf = reinterpret_cast<const float*>(found_inf);
  call.squares = reinterpret_cast<const double*>(squares);
  call.squares_count = squares_count;
  call.turns = reinterpret_cast<void*>(turns);
  On::take(call, where);
  typename On::Release release;
  kernels_of<On>->adam(call);
}

template <class On>
void sum_squares(int dtype, const std::vector<std::tuple<uintptr_t, int64_t>>& gradients, uintptr_t squares,
                 const Where<On>& where) {
  std::vector<AdamTensor> table;
  for (const auto& [gradient, size] : gradients) {
    table.push_back({nullptr, reinterpret_cast<void*>(gradient), nullptr, nullptr, nullptr, size});
  }
  SquaresCall call;
  call.dtype = static_cast<DType>(dtype);
  call.tensors = table.data();
  call.count = static_cast<int64_t>(table.size());
  call.squares = reinterpret_cast<double*>(squares);
  On::take(call, where);
  typename On::Release release;
  kernels_of<On>->sum_squares(call);
}

template <class On>
void define_ops(py::module_& module) {
  module.def("adam", adam<On>);
  module.def("sum_squares", sum_squares<On>);
  module.def("density", density<On>);
  module.def("density_backward", density_backward<On>);
  module.def("iwae_loss", iwae_loss<On>);
  module.def("iwae_loss_backward", iwae_loss_backward<On>);
  module.def("log_mean_exp", log_mean_exp<On>);
  module.def("log_mean_exp_backward", log_mean_exp_backward<On>);
  module.def("standard_normal", standard_normal<On>);
  module.def("sample_gaussian", sample_gaussian<On>);
  module.def("sample_gaussian_backward", sample_gaussian_backward<On>);
  module.def("weight_scales", weight_scales<On>);
  if (kernels_of<On>->selection != nullptr) module.def("selection", selection<On>);
  if (kernels_of<On>->rescale != nullptr) module.def("rescale", rescale<On>);
  if (kernels_of<On>->tanh_layer != nullptr) {
    module.def("tanh_layer", tanh_layer<On>);
    module.def("tanh_layer_backward", tanh_layer_backward<On>);
  }
}

}  // namespace iwae
