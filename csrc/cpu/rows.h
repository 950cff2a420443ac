// Iteration over the leading axes of a call, and its distribution over threads.
#pragma once

#include <array>
#include <cstdint>

#include "../operand.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace iwae {
namespace IWAE_ISA {

// A subset of the axes of a shape, in order, outermost first.
struct Axes {
  int count = 0;
  int axis[kMaxDims] = {};

  void add(int which) { axis[count++] = which; }
  int64_t size(const Shape& shape) const {
    int64_t product = 1;
    for (int i = 0; i < count; ++i) product *= shape.sizes[axis[i]];
    return product;
  }
};

static inline Axes axes_between(int begin, int end) {
  Axes axes;
  for (int axis = begin; axis < end; ++axis) axes.add(axis);
  return axes;
}

// A position on the chosen axes and the offset of each operand there, in elements.
template <int kOperands>
class Walk {
 public:
  // Operands that are null, or have null data, have offset 0.
  Walk(const Shape& shape, const Axes& axes, int64_t start, const std::array<const Operand*, kOperands>& operands)
      : axes_(axes.count) {
    for (int i = axes_ - 1; i >= 0; --i) {
      sizes_[i] = shape.sizes[axes.axis[i]];
      index_[i] = sizes_[i] > 0 ? start % sizes_[i] : 0;
      start = sizes_[i] > 0 ? start / sizes_[i] : 0;
      for (int o = 0; o < kOperands; ++o) strides_[i][o] = operands[o] ? operands[o]->strides[axes.axis[i]] : 0;
    }
    for (int i = 0; i < axes_; ++i) {
      for (int o = 0; o < kOperands; ++o) offsets_[o] += index_[i] * strides_[i][o];
    }
  }

  int64_t offset(int operand) const { return offsets_[operand]; }

  void next() {
    for (int i = axes_ - 1; i >= 0; --i) {
      if (++index_[i] < sizes_[i]) {
        for (int o = 0; o < kOperands; ++o) offsets_[o] += strides_[i][o];
        return;
      }
      for (int o = 0; o < kOperands; ++o) offsets_[o] -= (sizes_[i] - 1) * strides_[i][o];
      index_[i] = 0;
    }
  }

 private:
  int axes_;
  int64_t sizes_[kMaxDims] = {}, index_[kMaxDims] = {};
  int64_t strides_[kMaxDims][kOperands] = {};
  int64_t offsets_[kOperands] = {};
};

// Starting a team of threads costs microseconds: use no more threads than there is work for.
static inline int useful_threads(int64_t elements, int threads) {
  constexpr int64_t kElementsAThread = 8192;
  const int64_t most = elements / kElementsAThread;
  return most < 1 ? 1 : (most < threads ? static_cast<int>(most) : threads);
}

// Calls body(begin, end) with contiguous parts of 0 .. count, one per thread. No result depends on the split.
template <class Body>
static inline void parallel(int64_t count, int threads, const Body& body) {
#ifdef _OPENMP
  if (threads > 1 && count > 1) {
#pragma omp parallel num_threads(threads)
    {
      const int64_t part = omp_get_thread_num(), parts = omp_get_num_threads();
      body(count * part / parts, count * (part + 1) / parts);
    }
    return;
  }
#else
  (void)threads;
#endif
  body(int64_t{0}, count);
}

}  // namespace IWAE_ISA
}  // namespace iwae
