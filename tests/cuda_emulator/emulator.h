// CUDA's words for a CPU's compiler, so that the kernels of csrc/cuda run where there is no GPU.
//
// Blocks run one after another. The threads of a block are fibers: each runs until it waits, at a barrier or in an
// exchange between lanes. A warp runs as far ahead of the others as it can, and their order changes, so that a barrier
// that is missing shows; one that not every thread comes to is an error. Dynamic shared memory is filled with NaN before
// each block.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <utility>

#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static
#define IWAE_KERNEL static void

namespace emulator {

constexpr int kThreads = iwae::IWAE_ISA::kThreads, kWarp = iwae::IWAE_ISA::kWarp, kStackBytes = 1 << 16;
constexpr int64_t kSharedBytes = 48 << 10;  // what every GPU gives a block

struct Barrier {
  int expected = 0, arrived = 0;
  int64_t generation = 0;
};

struct Fiber {
  ucontext_t context;  // where it begins,
  jmp_buf place;       // and where it waits: coming back to it costs no system call
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  bool begun = false, done = true;
  const Barrier* waits_at = nullptr;
  int64_t generation = 0;
};

struct Machine {
  Fiber fibers[kThreads];
  jmp_buf scheduler;
  Barrier block, warps[kThreads / kWarp];
  uint64_t exchanged[kThreads];
  alignas(16) char shared[kSharedBytes];
  const std::function<void()>* body = nullptr;
  std::exception_ptr error;
  int current = 0;
  uint64_t turn = 0;
};

inline Machine& machine() {
  static Machine only;
  return only;
}

inline void wait(Barrier& barrier) {
  Machine& m = machine();
  if (++barrier.arrived == barrier.expected) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  Fiber& self = m.fibers[m.current];
  self.waits_at = &barrier;
  self.generation = barrier.generation;
  if (_setjmp(self.place) == 0) _longjmp(m.scheduler, 1);
}

inline void enter() {
  Machine& m = machine();
  try {
    (*m.body)();
  } catch (...) {
    m.error = std::current_exception();
  }
  m.fibers[m.current].done = true;
  _longjmp(m.scheduler, 1);
}

// Until it waits, or is done.
__attribute__((noinline)) inline void resume(Fiber& fiber) {
  if (_setjmp(machine().scheduler) != 0) return;
  if (fiber.begun) _longjmp(fiber.place, 1);
  fiber.begun = true;
  setcontext(&fiber.context);
}

}  // namespace emulator

struct Index {
  unsigned x;
};
inline Index threadIdx, blockIdx;

namespace emulator {

// Lets each thread of a warp that need not wait run until it does; whether there was one.
inline bool run_warp(int warp, uint64_t turn, int& left) {
  Machine& m = machine();
  bool moved = false;
  for (int i = 0; i < kWarp; ++i) {
    const int lane = static_cast<int>((i * (2 * (turn % 11) + 1) + turn) % kWarp);  // an odd stride: all come
    m.current = warp * kWarp + lane;
    Fiber& fiber = m.fibers[m.current];
    if (fiber.done || (fiber.waits_at != nullptr && fiber.waits_at->generation == fiber.generation)) continue;
    moved = true;
    fiber.waits_at = nullptr;
    threadIdx.x = static_cast<unsigned>(m.current);
    resume(fiber);
    left -= fiber.done;
    if (m.error) std::rethrow_exception(std::exchange(m.error, nullptr));
  }
  return moved;
}

inline void run_block(int64_t shared_bytes) {
  Machine& m = machine();
  std::memset(m.shared, 0xff, static_cast<size_t>(shared_bytes));
  m.block = {kThreads, 0, 0};
  for (Barrier& warp : m.warps) warp = {kWarp, 0, 0};
  for (Fiber& fiber : m.fibers) {
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    makecontext(&fiber.context, enter, 0);
    fiber.begun = fiber.done = false;
    fiber.waits_at = nullptr;
  }
  for (int left = kThreads; left > 0;) {
    bool moved = false;
    const uint64_t turn = m.turn++;
    for (int i = 0; i < kThreads / kWarp; ++i) {
      const int warp = (kThreads / kWarp) - 1 - static_cast<int>((i + turn) % (kThreads / kWarp));
      while (run_warp(warp, turn, left)) moved = true;
    }
    if (!moved) {
      throw std::logic_error("threads of a block wait at a barrier that the others do not come to");
    }
  }
}

inline void run(int64_t blocks, int64_t shared_bytes, const std::function<void()>& body) {
  if (shared_bytes > kSharedBytes) throw std::length_error("a block asks for more shared memory than every GPU has");
  machine().body = &body;
  for (int64_t block = 0; block < blocks; ++block) {
    blockIdx.x = static_cast<unsigned>(block);
    run_block(shared_bytes);
  }
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::machine().block); }

template <class T>
T __shfl_xor_sync(unsigned, T x, int distance) {
  emulator::Machine& m = emulator::machine();
  const int self = m.current;
  emulator::Barrier& warp = m.warps[self / emulator::kWarp];
  static_assert(sizeof(T) <= sizeof(uint64_t), "an exchange is of one number");
  std::memcpy(&m.exchanged[self], &x, sizeof x);
  emulator::wait(warp);
  std::memcpy(&x, &m.exchanged[self ^ distance], sizeof x);
  emulator::wait(warp);  // before anyone writes again
  return x;
}

inline int __popc(unsigned x) { return __builtin_popcount(x); }

namespace iwae {
namespace IWAE_ISA {

// Few are many here, so that small tests go all ways.
constexpr int64_t kManyThreads = 128, kManyObservations = 3;

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int64_t shared_bytes, void*,
            const Arguments&... arguments) {
  emulator::run(blocks, shared_bytes, [&] { kernel(arguments...); });
}

template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulator::machine().shared);
}

}  // namespace IWAE_ISA
}  // namespace iwae
