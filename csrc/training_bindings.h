// The Python binding of training steps in one launch, and the names of the plan's words, which Python compares with its
// own.
#pragma once

#include "bindings.h"

namespace iwae {

// Names in the order of their numbers.
inline std::vector<std::string> training_names(const std::string& of) {
#define IWAE_NAME(name) #name,
  if (of == "kinds") return {IWAE_TRAINING_KINDS(IWAE_NAME)};
  if (of == "shapes") return {IWAE_TRAINING_SHAPES(IWAE_NAME)};
  if (of == "finishes") return {IWAE_TRAINING_FINISHES(IWAE_NAME)};
  if (of == "fields") return {IWAE_TRAINING_FIELDS(IWAE_NAME)};
#undef IWAE_NAME
  throw py::value_error("unknown names: " + of);
}

// `program` has the address of the words, and the numbers of phases, tensors and tasks. `objective` has power, linear
// and quadratic coefficient, weight of the divergence, and factor. `data` has the address, 1 for bytes, and the number
// of observations. `addresses` are those of the chosen observations, the learning rates, the seed, Adam's coefficients,
// the metrics and the counter of the barrier. `pixels` has the seed, 1 if pixels are drawn, and the number of the first
// step. `adam` has beta1, beta2, eps and weight decay; `flags` say whether that is decoupled, whether the objective is
// maximized, and whether eps is corrected.
template <class On>
void training_steps(const std::tuple<uintptr_t, int, int, int>& program, const std::vector<double>& objective,
                    bool path_only, const std::tuple<uintptr_t, bool, int64_t>& data, double divisor,
                    const Pointers& addresses, const std::tuple<uint64_t, bool, uint32_t>& pixels,
                    const std::vector<double>& adam, const std::tuple<bool, bool, bool>& flags, int steps, bool tf32,
                    const Where<On>& where) {
  if (objective.size() != 5) throw py::value_error("expected 5 numbers of the objective");
  if (addresses.size() != 6) throw py::value_error("expected 6 addresses");
  if (adam.size() != 4) throw py::value_error("expected 4 numbers of Adam");
  TrainingCall call;
  call.program.words = reinterpret_cast<const int64_t*>(std::get<0>(program));
  call.program.phases = std::get<1>(program);
  call.program.tensors = std::get<2>(program);
  call.program.tasks = std::get<3>(program);
  call.objective.power = static_cast<float>(objective[0]);
  call.objective.linear = static_cast<float>(objective[1]);
  call.objective.quadratic = static_cast<float>(objective[2]);
  call.objective.kl_weight = static_cast<float>(objective[3]);
  call.objective.factor = static_cast<float>(objective[4]);
  call.objective.path_only = path_only;
  call.inputs.data = reinterpret_cast<const void*>(std::get<0>(data));
  call.inputs.bytes = std::get<1>(data);
  call.inputs.observations = std::get<2>(data);
  call.inputs.divisor = static_cast<float>(divisor);
  call.inputs.chosen = reinterpret_cast<const int64_t*>(addresses[0]);
  call.inputs.rates = reinterpret_cast<const float*>(addresses[1]);
  call.inputs.seed = reinterpret_cast<const uint64_t*>(addresses[2]);
  call.coefficients = reinterpret_cast<float*>(addresses[3]);
  call.metrics = reinterpret_cast<float*>(addresses[4]);
  call.counter = reinterpret_cast<unsigned*>(addresses[5]);
  std::tie(call.inputs.pixel_seed, call.inputs.draws_pixels, call.inputs.first_step) = pixels;
  call.adam = {0.0,     adam[0], adam[1], std::log(adam[0]),  std::log(adam[1]),  adam[2],
               adam[3], 0.0,     false,   std::get<0>(flags), std::get<1>(flags), std::get<2>(flags)};
  call.steps = steps;
  call.tf32 = tf32;
  On::take(call, where);
  typename On::Release release;
  kernels_of<On>->training_steps(call);
}

inline void define_training_steps(py::module_& module) {
  module.def("training_steps", training_steps<OnGPU>);
  module.def("training_names", training_names);
  module.def("has_cooperative_launch", [] { return kernels_of<OnGPU>->has_cooperative_launch(); });
}

}  // namespace iwae
