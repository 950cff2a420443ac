// CUDA's words for a CPU's compiler, so that the kernels of csrc/cuda run on a machine without a GPU.
//
// Blocks run one after another; the blocks of a cluster run together. Threads are fibers: each runs until it waits, at
// a barrier or in an exchange between lanes. A warp runs as far ahead of the others as it can, and their order changes,
// so that a missing barrier has an effect; a barrier that some threads do not reach is an error. Dynamic shared memory
// is filled with NaN before each block. An asynchronous copy fills its destination with NaN, and is made when its
// thread waits for it: a read without the wait, or without a barrier after another thread's wait, gets NaN. So does a
// read in a later block of memory that only an earlier block copied to.
//
// The blocks of a cooperative launch run together. Of each number that they exchange through global memory it is known
// who wrote and who read it last: an access that no barrier separates from that of another block, or of another thread
// of the block, is an error (Accesses).
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cmath>
#include <cstdint>
#include <cstring>
#include <deque>
#include <exception>
#include <functional>
#include <memory>
#include <stdexcept>
#include <unordered_map>
#include <utility>
#include <vector>

#define __device__
#define __host__
#define __forceinline__ inline
#define __shared__ static  // one block at a time: kernels of clusters use dynamic shared memory alone
#define IWAE_KERNEL static void
#define IWAE_BOUNDED_KERNEL(threads, blocks) static void
#define IWAE_NOT_INLINED static __attribute__((noinline))

namespace emulator {

constexpr int kThreads = iwae::IWAE_ISA::kThreads, kWarp = iwae::IWAE_ISA::kWarp, kStackBytes = 1 << 16;
constexpr int64_t kSharedBytes = 48 << 10;     // available to a block on every GPU
constexpr int64_t kMostSharedBytes = 227 << 10;  // available to a block of a cluster

struct Barrier {
  int expected = 0, arrived = 0;
  int64_t generation = 0;
};

// A copy that a thread has started, of some bytes, and zeros for the rest.
struct Copy {
  void* to;
  const void* from;
  size_t bytes, present;
};

// Where a thread is between barriers.
struct Moment {
  int64_t grid = -1, generation = -1;  // of the barriers of all blocks and of its block
  int block = 0, thread = 0;           // -1: several

  // Returns true if a barrier separates an earlier access from one of this moment, or if both are of one thread.
  bool follows(const Moment& earlier) const {
    if (earlier.grid != grid) return true;
    if (earlier.block != block) return false;
    return earlier.generation != generation || earlier.thread == thread;
  }
};

// The last accesses of each number in global memory, by its address.
class Accesses {
 public:
  void forget() { last_.clear(); }

  void read(const void* address, const Moment& now) {
    Access& access = last_[address];
    if (!now.follows(access.written)) throw std::logic_error("a number is read, and no barrier follows its write");
    Moment& read = access.read;
    if (now.follows(read) && read.block != -1) {
      read = read.grid == now.grid && read.block != now.block ? Moment{now.grid, now.generation, -1, -1} : now;
    } else if (read.grid == now.grid) {
      read = {now.grid, now.generation, read.block == now.block ? now.block : -1, -1};
    } else {
      read = now;
    }
  }

  void write(const void* address, const Moment& now) {
    Access& access = last_[address];
    if (!now.follows(access.written)) throw std::logic_error("a number is written twice without a barrier between");
    if (!now.follows(access.read)) throw std::logic_error("a number is written, and no barrier follows its read");
    access.written = now;
  }

 private:
  struct Access {
    Moment written, read;
  };
  std::unordered_map<const void*, Access> last_;
};

// The operands of a warp's product, in the memory of its threads.
struct Operands {
  const float* a;
  const float* b;
};

struct Fiber {
  ucontext_t context;  // where it begins
  jmp_buf place;       // where it waits: returning to it costs no system call
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  bool begun = false, done = true;
  bool has_waited = false;  // for the kernel before: begin_kernel() in csrc/cuda/device.h
  const Barrier* waits_at = nullptr;
  int64_t generation = 0;
  const uint64_t* mailbox = nullptr;       // whose round of a parity it waits for
  int parity = 0;
  int64_t cluster_generation = -1;         // of the cluster's barrier at which it has arrived without waiting yet
  std::deque<std::vector<Copy>> copies{1};  // groups, the last one open
};

struct Block {
  Barrier barrier;
  std::vector<Barrier> warps;
  std::unique_ptr<char[]> memory{new char[kMostSharedBytes + 16]};

  char* shared() const { return memory.get() + (16 - reinterpret_cast<uintptr_t>(memory.get()) % 16) % 16; }
};

struct Launch {
  int64_t clusters;
  int blocks;  // of a cluster, 0 without clusters
  int64_t shared_bytes;
};

struct Machine {
  std::vector<Launch> launches;  // until they are asked for
  std::deque<Fiber> fibers;  // of the blocks of a cluster
  std::vector<Block> blocks;
  std::vector<uint64_t> exchanged;
  std::vector<Operands> operands;
  Accesses accesses;
  Barrier cluster;
  std::vector<Copy> made;  // by the running blocks
  int threads = kThreads;  // of a block
  int64_t shared_bytes = 0;
  bool has_clusters = true;  // as GPUs from sm_90 on
  jmp_buf scheduler;
  const std::function<void()>* body = nullptr;
  std::exception_ptr error;
  int current = 0;
  uint64_t turn = 0;

  Fiber& self() { return fibers[current]; }
  Block& block() { return blocks[current / threads]; }
};

inline Machine& machine() {
  static Machine only;
  return only;
}

// Returns true if the barrier opens for the thread that arrives.
inline bool arrive(Barrier& barrier) {
  if (++barrier.arrived < barrier.expected) return false;
  barrier.arrived = 0;
  ++barrier.generation;
  return true;
}

// Waits until the barrier has left a generation.
inline void wait_for(Barrier& barrier, int64_t generation) {
  if (barrier.generation != generation) return;
  Machine& m = machine();
  Fiber& self = m.self();
  self.waits_at = &barrier;
  self.generation = generation;
  if (_setjmp(self.place) == 0) _longjmp(m.scheduler, 1);
}

// The state of a mailbox.
struct Mail {
  int32_t bytes;  // that are expected and have not arrived
  int16_t announced, round;

  static Mail at(const uint64_t* mailbox) {
    Mail mail;
    std::memcpy(&mail, mailbox, sizeof mail);
    return mail;
  }
  void write(uint64_t* mailbox) {
    if (announced && bytes == 0) *this = {0, 0, static_cast<int16_t>(round + 1)};
    std::memcpy(mailbox, this, sizeof *this);
  }
  bool waits(int parity) const { return round % 2 == parity; }
};

inline void wait(Barrier& barrier) {
  const int64_t generation = barrier.generation;
  if (!arrive(barrier)) wait_for(barrier, generation);
}

inline void enter() {
  Machine& m = machine();
  try {
    (*m.body)();
    if (!m.self().has_waited) throw std::logic_error("a kernel does not call begin_kernel()");
    for (const std::vector<Copy>& group : m.self().copies) {
      if (!group.empty()) throw std::logic_error("a thread ends before it has waited for its copies");
    }
  } catch (...) {
    m.error = std::current_exception();
  }
  m.self().done = true;
  _longjmp(m.scheduler, 1);
}

// Runs a thread until it waits, or is done.
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
inline Index threadIdx, blockIdx, gridDim;

namespace emulator {

// Runs each thread of a warp that need not wait until it does; returns true if there was one.
inline bool run_warp(int warp, unsigned first_block, uint64_t turn, int& left) {
  Machine& m = machine();
  bool moved = false;
  for (int i = 0; i < kWarp; ++i) {
    const int lane = static_cast<int>((i * (2 * (turn % 11) + 1) + turn) % kWarp);  // an odd stride reaches all
    m.current = warp * kWarp + lane;
    Fiber& fiber = m.self();
    if (fiber.done || (fiber.waits_at != nullptr && fiber.waits_at->generation == fiber.generation)) continue;
    if (fiber.mailbox != nullptr && Mail::at(fiber.mailbox).waits(fiber.parity)) continue;
    moved = true;
    fiber.mailbox = nullptr;
    fiber.waits_at = nullptr;
    threadIdx.x = static_cast<unsigned>(m.current % m.threads);
    blockIdx.x = first_block + static_cast<unsigned>(m.current / m.threads);
    resume(fiber);
    left -= fiber.done;
    if (m.error) std::rethrow_exception(std::exchange(m.error, nullptr));
  }
  return moved;
}

// Runs the blocks of a cluster.
inline void run_cluster(unsigned first_block) {
  Machine& m = machine();
  const int count = static_cast<int>(m.blocks.size()) * m.threads, warps = count / kWarp;
  m.made.clear();
  m.cluster = {count, 0, 0};
  for (Block& block : m.blocks) {
    std::memset(block.shared(), 0xff, static_cast<size_t>(m.shared_bytes));
    block.barrier = {m.threads, 0, 0};
    block.warps.assign(m.threads / kWarp, Barrier{kWarp, 0, 0});
  }
  for (int i = 0; i < count; ++i) {
    Fiber& fiber = m.fibers[i];
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    makecontext(&fiber.context, enter, 0);
    fiber.begun = fiber.done = fiber.has_waited = false;
    fiber.waits_at = nullptr;
    fiber.mailbox = nullptr;
    fiber.cluster_generation = -1;
    fiber.copies.assign(1, {});
  }
  for (int left = count; left > 0;) {
    bool moved = false;
    const uint64_t turn = m.turn++;
    for (int i = 0; i < warps; ++i) {
      const int warp = warps - 1 - static_cast<int>((i + turn) % warps);
      while (run_warp(warp, first_block, turn, left)) moved = true;
    }
    if (!moved) {
      throw std::logic_error("threads wait at a barrier that others do not reach");
    }
  }
  for (const Copy& copy : m.made) std::memset(copy.to, 0xff, copy.bytes);
  m.made.clear();
}

// Runs a grid of clusters of `blocks` blocks each, or of single blocks if that is 0.
inline void run(int64_t clusters, int blocks, int threads, int64_t shared_bytes, const std::function<void()>& body) {
  if (shared_bytes > (blocks == 0 ? kSharedBytes : kMostSharedBytes)) {
    throw std::length_error("a block requests more shared memory than a GPU has");
  }
  Machine& m = machine();
  m.launches.push_back({clusters, blocks, shared_bytes});
  if (blocks == 0) blocks = 1;
  m.threads = threads;
  m.shared_bytes = shared_bytes;
  m.blocks.resize(blocks);
  while (m.fibers.size() < static_cast<size_t>(blocks) * threads) m.fibers.emplace_back();
  m.exchanged.resize(m.fibers.size());
  m.operands.resize(m.fibers.size());
  m.body = &body;
  gridDim.x = static_cast<unsigned>(clusters * blocks);
  for (int64_t cluster = 0; cluster < clusters; ++cluster) run_cluster(static_cast<unsigned>(cluster * blocks));
}

}  // namespace emulator

inline void __syncthreads() { emulator::wait(emulator::machine().block().barrier); }

template <class T>
T __shfl_xor_sync(unsigned, T x, int distance) {
  emulator::Machine& m = emulator::machine();
  const int self = m.current;
  emulator::Barrier& warp = m.block().warps[self % m.threads / emulator::kWarp];
  static_assert(sizeof(T) <= sizeof(uint64_t), "an exchange is of one number");
  std::memcpy(&m.exchanged[self], &x, sizeof x);
  emulator::wait(warp);
  std::memcpy(&x, &m.exchanged[self ^ distance], sizeof x);
  emulator::wait(warp);  // before another lane writes again
  return x;
}

// Blocks do not run at the same time.
inline void __threadfence() {}
inline unsigned atomicAdd(unsigned* address, unsigned added) { return std::exchange(*address, *address + added); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }

namespace iwae {
namespace IWAE_ISA {

// Small numbers, so that small tests reach every path.
constexpr int64_t kManyThreads = 128, kManyObservations = 3, kFewBlocks = 4;
constexpr int kHeld = 2;
constexpr int kSmallBlocks = 3, kMostBlocksACluster = 4;
constexpr int64_t kSmallBlockBytes = 4 << 10, kLargeBlockBytes = 16 << 10;

inline void begin_kernel() { emulator::machine().self().has_waited = true; }

template <class... Parameters, class... Arguments>
void launch(void (*kernel)(Parameters...), int64_t blocks, int64_t shared_bytes, void*,
            const Arguments&... arguments) {
  emulator::run(blocks, 0, kThreads, shared_bytes, [&] { kernel(arguments...); });
}

template <class T>
T* aligned_to_16(T* address) {
  if (reinterpret_cast<uintptr_t>(address) % 16 != 0) throw std::logic_error("16 bytes are not aligned");
  return address;
}

template <class T>
T* dynamic_shared() {
  return reinterpret_cast<T*>(emulator::machine().block().shared());
}

// Clusters and asynchronous copies: see csrc/cuda/cluster.h and csrc/cuda/async.h.

inline bool has_clusters() { return emulator::machine().has_clusters; }

template <class... Parameters, class... Arguments>
void launch_clusters(void (*kernel)(Parameters...), int threads, int64_t most, int blocks, int64_t shared_bytes, void*,
                     const Arguments&... arguments) {
  const int64_t resident = 2;  // few, so that a cluster has several turns
  emulator::run(most < resident ? most : resident, blocks, threads, shared_bytes, [&] { kernel(arguments...); });
}

inline int cluster_rank() { return emulator::machine().current / emulator::machine().threads; }

using Mailbox = uint64_t;

inline void open_mailbox(Mailbox* mailbox) { emulator::Mail{0, 0, 0}.write(mailbox); }

inline void expect_bytes(Mailbox* mailbox, int bytes) {
  emulator::Mail mail = emulator::Mail::at(mailbox);
  if (mail.announced) throw std::logic_error("a round of a mailbox is announced twice");
  mail.bytes += bytes;
  mail.announced = 1;
  mail.write(mailbox);
}

inline void wait_for_mail(Mailbox* mailbox, int parity) {
  if (!emulator::Mail::at(mailbox).waits(parity)) return;
  emulator::Machine& m = emulator::machine();
  emulator::Fiber& self = m.self();
  self.mailbox = mailbox;
  self.parity = parity;
  if (_setjmp(self.place) == 0) _longjmp(m.scheduler, 1);
}

inline void send(float* own, Mailbox* mailbox, int rank, float value) {
  emulator::Machine& m = emulator::machine();
  const auto in_block = [&](void* place) {
    return m.blocks[rank].shared() + (static_cast<char*>(place) - m.block().shared());
  };
  std::memcpy(in_block(own), &value, sizeof value);
  Mailbox* counter = reinterpret_cast<Mailbox*>(in_block(mailbox));
  emulator::Mail mail = emulator::Mail::at(counter);
  mail.bytes -= static_cast<int32_t>(sizeof value);
  mail.write(counter);
}

inline void arrive_at_cluster() {
  emulator::Machine& m = emulator::machine();
  if (m.self().cluster_generation >= 0) throw std::logic_error("a thread arrives twice without waiting");
  m.self().cluster_generation = m.cluster.generation;
  emulator::arrive(m.cluster);
}

inline void wait_for_cluster() {
  emulator::Machine& m = emulator::machine();
  const int64_t generation = std::exchange(m.self().cluster_generation, -1);
  if (generation < 0) throw std::logic_error("a thread waits for its cluster without having arrived");
  emulator::wait_for(m.cluster, generation);
}

inline void copy_sixteen(void* to, const void* from) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0) {
    throw std::logic_error("an asynchronous copy is not aligned to 16 bytes");
  }
  std::memset(to, 0xff, 16);
  emulator::machine().self().copies.back().push_back({to, from, 16, 16});
}

inline void end_group_of_copies() { emulator::machine().self().copies.emplace_back(); }

inline void wait_for_copies(int pending) {
  std::deque<std::vector<emulator::Copy>>& groups = emulator::machine().self().copies;
  while (static_cast<int>(groups.size()) - 1 > pending) {
    for (const emulator::Copy& copy : groups.front()) {
      std::memcpy(copy.to, copy.from, copy.present);
      std::memset(static_cast<char*>(copy.to) + copy.present, 0, copy.bytes - copy.present);
      emulator::machine().made.push_back(copy);
    }
    groups.pop_front();
  }
}

// Cooperative launches: see csrc/cuda/training_step/grid.h.

inline emulator::Moment this_moment() {
  const emulator::Machine& m = emulator::machine();
  const int block = m.current / m.threads;
  return {m.cluster.generation, m.blocks[block].barrier.generation, block, m.current};
}

inline float read_global(const float* address) {
  emulator::machine().accesses.read(address, this_moment());
  return *address;
}

inline void write_global(float* address, float value) {
  emulator::machine().accesses.write(address, this_moment());
  *address = value;
}

inline void start_copy(float* to, const float* from, size_t bytes, int present) {
  for (int i = 0; i < present / 4; ++i) emulator::machine().accesses.read(from + i, this_moment());
  std::memset(to, 0xff, bytes);
  emulator::machine().self().copies.back().push_back({to, from, bytes, static_cast<size_t>(present)});
}

inline void copy_four(float* to, const float* from, int present) { start_copy(to, from, 4, present); }

inline void copy_part(float* to, const float* from, int present) {
  if ((reinterpret_cast<uintptr_t>(to) | reinterpret_cast<uintptr_t>(from)) % 16 != 0) {
    throw std::logic_error("an asynchronous copy is not aligned to 16 bytes");
  }
  start_copy(to, from, 16, present);
}

class GridBarrier {
 public:
  explicit GridBarrier(unsigned*) {}
  void wait() { emulator::wait(emulator::machine().cluster); }
};

inline bool has_cooperative_launch() { return true; }

template <class... Parameters, class... Arguments>
void launch_cooperative(void (*kernel)(Parameters...), int64_t shared_bytes, unsigned*, void*,
                        const Arguments&... arguments) {
  emulator::machine().accesses.forget();
  emulator::run(1, 3, kThreads, shared_bytes, [&] { kernel(arguments...); });
}

// Products on tensor cores: see csrc/cuda/training_step/tensor_cores.h.

// The nearest number with 10 bits after the point.
inline float as_tf32(float x) {
  uint32_t bits;
  std::memcpy(&bits, &x, sizeof bits);
  if ((bits >> 23 & 0xff) != 0xff) bits = (bits + 0x1000u) & 0xffffe000u;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

template <int kProducts, int kRows, int kColumns>
void multiply(float (&sum)[kRows][kColumns][4], const float (&a)[kRows][4], const float (&b)[kColumns][2]) {
  emulator::Machine& m = emulator::machine();
  const int self = m.current, lane = self % emulator::kWarp, group = lane / 4, pair = lane % 4;
  emulator::Barrier& warp = m.block().warps[self % m.threads / emulator::kWarp];
  m.operands[self] = {&a[0][0], &b[0][0]};
  emulator::wait(warp);
  const emulator::Operands* lanes = &m.operands[self - lane];
  for (int r = 0; r < kRows; ++r) {
    for (int c = 0; c < kColumns; ++c) {
      for (int i = 0; i < 4; ++i) {
        float low = 0.0f, high = 0.0f;
        for (int k = 0; k < 8; ++k) {
          const float x = lanes[group * 4 + k % 4].a[r * 4 + i / 2 + k / 4 * 2];
          const float y = lanes[(2 * pair + i % 2) * 4 + k % 4].b[c * 2 + k / 4];
          const float x1 = as_tf32(x), y1 = as_tf32(y);
          high += x1 * y1;
          if (kProducts == 3) low += as_tf32(x - x1) * y1 + x1 * as_tf32(y - y1);
        }
        sum[r][c][i] += low + high;
      }
    }
  }
  emulator::wait(warp);  // before a lane changes its operands
}

}  // namespace IWAE_ISA
}  // namespace iwae
