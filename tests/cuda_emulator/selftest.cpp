// Kernels that are wrong in ways that the emulator must see, and one that is right; prints what came of each.
#include <cstdio>

#include "../../csrc/cuda/device.h"

using namespace iwae::cuda;

// Every thread reads what another wrote, with a barrier between or without.
IWAE_KERNEL reverse(int* out, const bool with_barrier) {
  __shared__ int place[kThreads];
  place[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (with_barrier) __syncthreads();
  out[threadIdx.x] = place[kThreads - 1 - threadIdx.x];
  __syncthreads();
  place[threadIdx.x] = -1;
}

IWAE_KERNEL half_come() {
  if (threadIdx.x < kThreads / 2) __syncthreads();
}

IWAE_KERNEL some_lanes_exchange() {
  if (threadIdx.x % kWarp != 3) __shfl_xor_sync(kAllLanes, 1.0, 1);
}

IWAE_KERNEL shared_memory(double* out) { *out = dynamic_shared<double>()[5]; }

static bool reversed(bool with_barrier) {
  int out[kThreads];
  launch(reverse, 1, 0, nullptr, static_cast<int*>(out), with_barrier);
  for (int i = 0; i < kThreads; ++i) {
    if (out[i] != kThreads - 1 - i) return false;
  }
  return true;
}

template <class Kernel>
static const char* outcome(Kernel kernel, int64_t shared_bytes = 0) {
  try {
    launch(kernel, 1, shared_bytes, nullptr);
  } catch (const std::exception& error) {
    return "refused";
  }
  return "ran";
}

int main() {
  double unwritten = 0.0;
  launch(shared_memory, 1, 64, nullptr, &unwritten);
  std::printf("barrier: %s\n", reversed(true) ? "right" : "wrong");
  std::printf("no barrier: %s\n", reversed(false) ? "right" : "wrong");
  std::printf("half come: %s\n", outcome(half_come));
  std::printf("lanes missing: %s\n", outcome(some_lanes_exchange));
  std::printf("too much shared memory: %s\n", outcome(half_come, 49 << 10));
  std::printf("unwritten: %s\n", unwritten != unwritten ? "NaN" : "a number");
  return 0;
}
