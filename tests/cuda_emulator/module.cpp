// The kernels of csrc/cuda as a Python module of the same ops, on the emulator.
#include "../../csrc/training_bindings.h"
#include "../../csrc/cuda/kernels.cu"

PYBIND11_MODULE(emulated_cuda, module) {
  iwae::kernels_of<iwae::OnGPU> = &iwae::cuda::kKernels;
  iwae::define_ops<iwae::OnGPU>(module);
  iwae::define_training_steps(module);
  module.def("set_clusters", [](bool available) { emulator::machine().has_clusters = available; },
             "Emulate a GPU that has clusters of blocks, the default, or one that does not.");
  module.def("launches", [] {
    std::vector<std::tuple<int64_t, int, int64_t>> made;
    for (const emulator::Launch& launch : std::exchange(emulator::machine().launches, {})) {
      made.emplace_back(launch.clusters, launch.blocks, launch.shared_bytes);
    }
    return made;
  }, "The launches since the last call: clusters, blocks of a cluster (0 without clusters), bytes of shared memory.");
}
