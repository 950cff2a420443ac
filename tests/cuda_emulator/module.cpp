// The kernels of csrc/cuda as a Python module of the same ops, on the emulator.
#include "../../csrc/bindings.h"
#include "../../csrc/cuda/kernels.cu"

PYBIND11_MODULE(emulated_cuda, module) {
  iwae::kernels_of<iwae::OnGPU> = &iwae::cuda::kKernels;
  iwae::define_ops<iwae::OnGPU>(module);
}
