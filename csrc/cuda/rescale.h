// Scales gradients that the forward pass computed for an upstream gradient of 1 by the actual one.
#pragma once

#include "../calls.h"
#include "load.h"
#include "walk.h"

namespace iwae {
namespace IWAE_ISA {

// Gradients of shape (k, ..., D), with rows (k, ...). The upstream gradient is nearly always 1, and there is nothing to
// do: this is checked on the GPU, to avoid a host-device synchronization. For this case the number of blocks is limited
// to those that run at once.
template <class T, class Storage>
IWAE_KERNEL rescale_kernel(char* gradient, const T* weights, const View grad, const Walk<1> rows, const bool is_number,
                           const int64_t features, const int64_t blocks) {
  begin_kernel();
  if (is_number && load_one<T>(grad.data, grad.dtype, 0) == T(1)) return;
  const int64_t entries = rows.outer_count * features, stride = blocks * kThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x; i < entries; i += stride) {
    const int64_t row = divide(i, features).quotient;
    int64_t at[1];
    rows.offsets(row, at);
    const T incoming = load_one<T>(grad.data, grad.dtype, at[0]);
    const T scaled = load_one<T>(gradient, dtype_of<Storage>(), i) * incoming;
    store_one<T>(gradient, dtype_of<Storage>(), i, weights[row] == T(0) || incoming == T(0) ? T(0) : scaled);
  }
}

template <class T, class Storage>
void rescale(const RescaleCall& call) {
  const int last = call.shape.dims - 1;
  const Operand* operands[1] = {&call.grad};
  const Walk<1> rows = walk_over(call.shape, leading_axes(call.shape), operands, 0, kNone);
  bool is_number = true;
  for (int axis = 0; axis < last; ++axis) is_number = is_number && call.grad.strides[axis] == 0;
  constexpr int64_t kMostBlocks = 1024;
  const int64_t needed = ceil_divide(rows.outer_count * call.shape.sizes[last], kThreads);
  const int64_t blocks = needed < kMostBlocks ? needed : kMostBlocks;
  launch(rescale_kernel<T, Storage>, blocks, 0, call.cuda_stream, static_cast<char*>(call.gradient),
         static_cast<const T*>(call.weights), view_of(call.grad, last), rows, is_number, call.shape.sizes[last],
         blocks);
}

}  // namespace IWAE_ISA
}  // namespace iwae
