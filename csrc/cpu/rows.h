// Walking over the leading axes of a call, and sharing the walk among threads.
#pragma once

#include <cstdint>

#include "operand.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace iwae {
namespace IWAE_ISA {

// A choice of the axes of a shape, in order, outermost first.
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

// A position on the chosen axes, and from it each operand's offset in elements.
class Walk {
 public:
  Walk(const Shape& shape, const Axes& axes, int64_t start) : shape_(shape), axes_(axes) {
    for (int i = axes.count - 1; i >= 0; --i) {
      const int64_t size = shape.sizes[axes.axis[i]];
      index_[i] = size > 0 ? start % size : 0;
      start = size > 0 ? start / size : 0;
    }
  }

  int64_t offset(const Operand& operand) const {
    int64_t sum = 0;
    for (int i = 0; i < axes_.count; ++i) sum += index_[i] * operand.strides[axes_.axis[i]];
    return sum;
  }

  void next() {
    for (int i = axes_.count - 1; i >= 0; --i) {
      if (++index_[i] < shape_.sizes[axes_.axis[i]]) return;
      index_[i] = 0;
    }
  }

 private:
  const Shape& shape_;
  const Axes& axes_;
  int64_t index_[kMaxDims] = {};
};

// Starting a thread team costs microseconds: use no more threads than the elements keep busy.
static inline int useful_threads(int64_t elements, int threads) {
  constexpr int64_t kElementsAThread = 8192;
  const int64_t most = elements / kElementsAThread;
  return most < 1 ? 1 : (most < threads ? static_cast<int>(most) : threads);
}

// Calls body(begin, end) with contiguous parts of 0 .. count, one a thread. No result depends on the split.
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
