// The Python module iwae_fast._C: the ops on the CPU, and on GPUs where it was built with CUDA.
#include "training_bindings.h"

#include <cstdlib>

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
#ifdef IWAE_HAVE_CUDA
IWAE_DECLARE(cuda)
#endif

namespace {

// The kernels that this processor can run, best first.
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

// The best kernels, or those named by IWAE_FAST_ISA, for tests and comparisons.
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

}  // namespace
}  // namespace iwae

PYBIND11_MODULE(_C, module) {
  using namespace iwae;
  kernels_of<OnCPU> = &choose_kernels();
  module.doc() = "Native kernels of iwae_fast; see iwae_fast/backends/native for their only caller.";
  py::module_ cpu = module.def_submodule("cpu");
  define_ops<OnCPU>(cpu);
  cpu.def("isa", [] { return std::string(kernels_of<OnCPU>->isa); }, "The instruction set in use.");
  cpu.def(
      "usable_isas",
      [] {
        std::vector<std::string> names;
        for (const Kernels* kernels : usable_kernels()) names.emplace_back(kernels->isa);
        return names;
      },
      "The compiled instruction sets that this processor can run, best first.");
  cpu.def("has_openmp", [] {
#ifdef _OPENMP
    return true;
#else
    return false;
#endif
  });
#ifdef IWAE_HAVE_CUDA
  kernels_of<OnGPU> = &cuda::kKernels;
  py::module_ gpu = module.def_submodule("cuda");
  define_ops<OnGPU>(gpu);
  define_training_steps(gpu);
#endif
}
