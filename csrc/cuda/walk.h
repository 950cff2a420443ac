// The offsets of every operand at a row, from the number of the row.
//
// Several rows are processed together along one axis, the inner axis. It is the one along which most operands are
// broadcast, since these are then read once for several rows. The other leading axes are the outer axes, merged where
// the strides allow it.
#pragma once

#include "../operand.h"
#include "device.h"

namespace iwae {
namespace IWAE_ISA {

template <int kOperands>
struct Walk {
  int64_t outer_count = 1, inner_count = 1;
  int outer_dims = 0;
  int64_t outer_sizes[kMaxDims] = {};
  int64_t outer_strides[kMaxDims][kOperands] = {};
  int64_t inner_strides[kOperands] = {};

  // The offsets of the first row of an outer index.
  __device__ __forceinline__ void offsets(int64_t outer, int64_t (&offset)[kOperands]) const {
#pragma unroll
    for (int o = 0; o < kOperands; ++o) offset[o] = 0;
    for (int axis = outer_dims - 1; axis >= 0; --axis) {
      // The rest of the index belongs to the outermost axis.
      const Division at = axis > 0 ? divide(outer, outer_sizes[axis]) : Division{0, outer};
#pragma unroll
      for (int o = 0; o < kOperands; ++o) offset[o] += at.remainder * outer_strides[axis][o];
      outer = at.quotient;
    }
  }
};

// The axes of a walk under construction.
template <int kOperands>
struct Axis {
  int64_t size = 1;
  int64_t strides[kOperands] = {};

  bool continues(const Axis& inner) const {
    for (int o = 0; o < kOperands; ++o) {
      if (strides[o] != inner.strides[o] * inner.size) return false;
    }
    return true;
  }
};

// A walk over those axes in [begin, end) of a shape whose bit is set in `chosen`. Operands that are null, or have null
// data, have offset 0. `inner_axis` is the axis along which to take rows, or kNone; by default it is chosen for the
// first `shared` operands.
constexpr int kNone = kMaxDims;

template <int kOperands>
Walk<kOperands> walk_over(const Shape& shape, unsigned chosen, const Operand* const (&operands)[kOperands], int shared,
                          int inner_axis = -1) {
  const auto axis_of = [&](int axis) {
    Axis<kOperands> made;
    made.size = shape.sizes[axis];
    for (int o = 0; o < kOperands; ++o) {
      made.strides[o] = operands[o] != nullptr && *operands[o] ? operands[o]->strides[axis] : 0;
    }
    return made;
  };
  if (inner_axis < 0) {
    int most = -1;
    for (int axis = 0; axis < shape.dims; ++axis) {
      if (!(chosen >> axis & 1) || shape.sizes[axis] == 1) continue;
      int broadcast = 0;
      for (int o = 0; o < shared; ++o) {
        broadcast += operands[o] != nullptr && *operands[o] && operands[o]->strides[axis] == 0;
      }
      if (broadcast >= most) {  // among equals the last axis, whose rows are adjacent in memory
        most = broadcast;
        inner_axis = axis;
      }
    }
  }
  Walk<kOperands> walk;
  Axis<kOperands> axes[kMaxDims];
  for (int axis = 0; axis < shape.dims; ++axis) {
    if (!(chosen >> axis & 1)) continue;
    const Axis<kOperands> next = axis_of(axis);
    if (axis == inner_axis) {
      walk.inner_count = next.size;
      for (int o = 0; o < kOperands; ++o) walk.inner_strides[o] = next.strides[o];
      continue;
    }
    walk.outer_count *= next.size;
    if (next.size == 1) continue;
    if (walk.outer_dims > 0 && axes[walk.outer_dims - 1].continues(next)) {
      const int64_t size = axes[walk.outer_dims - 1].size * next.size;
      axes[walk.outer_dims - 1] = next;
      axes[walk.outer_dims - 1].size = size;
    } else {
      axes[walk.outer_dims++] = next;
    }
  }
  for (int axis = 0; axis < walk.outer_dims; ++axis) {
    walk.outer_sizes[axis] = axes[axis].size;
    for (int o = 0; o < kOperands; ++o) walk.outer_strides[axis][o] = axes[axis].strides[o];
  }
  return walk;
}

// A walk over all leading axes of a shape; the last axis is the features.
inline unsigned leading_axes(const Shape& shape) { return (1u << (shape.dims - 1)) - 1; }

}  // namespace IWAE_ISA
}  // namespace iwae
