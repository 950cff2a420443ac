// The outputs of a fused loss, and its reduction over observations.
#pragma once

#include "../calls.h"
#include "device.h"

namespace iwae {
namespace IWAE_ISA {

// The outputs of a loss besides the weights (at kRowOut).
struct LossOutputs {
  void* bound = nullptr;      // per observation, in the dtype of the call; null if not requested
  void* losses = nullptr;     // the negated bounds, in the dtype of the call; null if they are reduced
  double* reduced = nullptr;  // the negated bound, or a block's sum of them, for loss_kernel
  void* loss = nullptr;       // their sum times the share, if one block has all of them
  double share = 1.0;
};

template <class T>
__device__ __forceinline__ void write_bound(const LossOutputs& out, int64_t observation, double bound) {
  if (out.bound != nullptr) static_cast<T*>(out.bound)[observation] = static_cast<T>(bound);
  if (out.losses != nullptr) static_cast<T*>(out.losses)[observation] = static_cast<T>(-bound);
}

// The last step of a reduction: the sum of the parts times the share, by one block, in a fixed order.
template <class T>
IWAE_KERNEL loss_kernel(const double* parts, const int64_t count, const double share, T* loss) {
  begin_kernel();
  __shared__ double place[kThreads / kWarp];
  double sum = 0.0;
  for (int64_t i = threadIdx.x; i < count; i += kThreads) sum += parts[i];
  sum = over_block(sum, place, [](double x, double y) { return x + y; });
  if (threadIdx.x == 0) *loss = static_cast<T>(sum * share);
}

inline int64_t observations_of(const DensityCall& call) {
  int64_t count = 1;
  for (int axis = 1; axis < call.shape.dims - 1; ++axis) count *= call.shape.sizes[axis];
  return count;
}

// The factor that a reduction applies to each observation.
inline double share_of(Reduction reduction, int64_t observations) {
  return reduction == Reduction::kMean ? 1.0 / static_cast<double>(observations) : 1.0;
}

// The outputs of a kernel that sums the loss in so many parts. With `one_part` the kernel writes the whole loss itself.
inline LossOutputs outputs_of(const IWAELossCall& call, int64_t parts, bool one_part = false) {
  LossOutputs out;
  out.bound = call.bound;
  out.share = share_of(call.reduction, observations_of(call));
  if (call.reduction == Reduction::kNone) {
    out.losses = call.loss;
  } else if (one_part) {
    out.loss = call.loss;
  } else {
    out.reduced = static_cast<double*>(call.allocate(call.allocator, parts * int64_t{sizeof(double)}));
  }
  return out;
}

template <class T>
void add_parts(const IWAELossCall& call, const LossOutputs& out, int64_t parts) {
  if (call.reduction == Reduction::kNone || out.loss != nullptr) return;  // pointers may be null: no observations
  launch(loss_kernel<T>, 1, 0, call.cuda_stream, out.reduced, parts, out.share, static_cast<T*>(call.loss));
}

}  // namespace IWAE_ISA
}  // namespace iwae
