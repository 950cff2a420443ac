// Kernels that are wrong in ways that the emulator must detect, beside right ones; prints the outcome of each.
#include <cstdio>

#include "../../csrc/cuda/device.h"
#include "../../csrc/cuda/training_step/grid.h"
#include "../../csrc/cuda/training_step/tensor_cores.h"

using namespace iwae::cuda;

// Every thread reads what another wrote, with a barrier between or without.
IWAE_KERNEL reverse(int* out, const bool with_barrier) {
  begin_kernel();
  __shared__ int place[kThreads];
  place[threadIdx.x] = static_cast<int>(threadIdx.x);
  if (with_barrier) __syncthreads();
  out[threadIdx.x] = place[kThreads - 1 - threadIdx.x];
  __syncthreads();
  place[threadIdx.x] = -1;
}

IWAE_KERNEL half_come() {
  begin_kernel();
  if (threadIdx.x < kThreads / 2) __syncthreads();
}

IWAE_KERNEL some_lanes_exchange() {
  begin_kernel();
  if (threadIdx.x % kWarp != 3) __shfl_xor_sync(kAllLanes, 1.0, 1);
}

IWAE_KERNEL shared_memory(double* out) {
  begin_kernel();
  *out = dynamic_shared<double>()[5];
}

IWAE_KERNEL does_not_begin(double* out) { *out = 1.0; }

// Every thread reads four numbers that another copied.
IWAE_KERNEL copy_and_reverse(const float* in, float* out, const bool waits, const bool with_barrier) {
  begin_kernel();
  float* place = dynamic_shared<float>();
  const int own = 4 * static_cast<int>(threadIdx.x), other = 4 * (kThreads - 1 - static_cast<int>(threadIdx.x));
  copy_sixteen(place + own, in + own);
  end_group_of_copies();
  if (waits) wait_for_copies(0);
  if (with_barrier) __syncthreads();
  for (int i = 0; i < 4; ++i) out[own + i] = place[other + i];
  if (!with_barrier) __syncthreads();
  wait_for_copies(0);
}

IWAE_KERNEL end_before_a_copy(const float* in) {
  begin_kernel();
  copy_sixteen(dynamic_shared<float>() + 4 * threadIdx.x, in + 4 * threadIdx.x);
  end_group_of_copies();
}

// Every thread reads four numbers that its block copied, or an earlier one.
IWAE_KERNEL copy_to_static_memory(const float* in, float* out, const bool copies) {
  begin_kernel();
  alignas(16) __shared__ float places[4 * kThreads];
  const int own = 4 * static_cast<int>(threadIdx.x);
  if (copies) copy_sixteen(places + own, in + own);
  end_group_of_copies();
  wait_for_copies(0);
  for (int i = 0; i < 4; ++i) out[own + i] = places[own + i];
}

// A cluster of two blocks, each of which gets its numbers from the other.
IWAE_KERNEL send_to_each_other(float* out, const bool waits, const int expected) {
  begin_kernel();
  Mailbox* mailbox = dynamic_shared<Mailbox>();
  float* place = reinterpret_cast<float*>(mailbox + 2);
  if (threadIdx.x == 0) open_mailbox(mailbox);
  arrive_at_cluster();
  wait_for_cluster();
  if (threadIdx.x == 0) expect_bytes(mailbox, expected);
  const int rank = cluster_rank();
  send(place + threadIdx.x, mailbox, 1 - rank, static_cast<float>(rank));
  if (waits) wait_for_mail(mailbox, 0);
  out[rank * kThreads + threadIdx.x] = place[kThreads - 1 - threadIdx.x];
}

// Every block reads what the next one wrote, or each thread what another of its block did.
IWAE_KERNEL exchange(float* numbers, const bool within_block, const bool with_barrier) {
  begin_kernel();
  GridBarrier barrier(nullptr);
  const unsigned block = within_block ? blockIdx.x : (blockIdx.x + 1) % gridDim.x;
  write_global(numbers + blockIdx.x * kThreads + threadIdx.x, 1.0f);
  if (with_barrier) within_block ? __syncthreads() : barrier.wait();
  read_global(numbers + block * kThreads + (kThreads - 1 - threadIdx.x));
}

// Every thread writes what all have read.
IWAE_KERNEL overwrite(float* numbers, const bool with_barrier) {
  begin_kernel();
  GridBarrier barrier(nullptr);
  read_global(numbers);
  if (with_barrier) barrier.wait();
  if (blockIdx.x == 0 && threadIdx.x == 0) write_global(numbers, 1.0f);
}

// A product of (16, 8) and (8, 8) by a warp: a has ones in column 3, and b the number 1 + 2^-12 in row 3.
template <int kProducts>
IWAE_KERNEL product_of_a_warp(float* out) {
  begin_kernel();
  float sum[1][1][4] = {}, a[1][4], b[1][2];
  const int lane = static_cast<int>(threadIdx.x) % kWarp;
  for (int i = 0; i < 4; ++i) a[0][i] = lane % 4 + i / 2 * 4 == 3 ? 1.0f : 0.0f;
  for (int i = 0; i < 2; ++i) b[0][i] = lane % 4 + i * 4 == 3 ? 1.0f + 1.0f / 4096 : 0.0f;
  multiply<kProducts>(sum, a, b);
  if (threadIdx.x == 0) *out = sum[0][0][0];
}

static bool copied(bool waits, bool with_barrier) {
  alignas(16) static float in[4 * kThreads], out[4 * kThreads];
  for (int i = 0; i < 4 * kThreads; ++i) in[i] = static_cast<float>(i);
  launch(copy_and_reverse, 1, sizeof in, nullptr, static_cast<const float*>(in), static_cast<float*>(out), waits,
         with_barrier);
  for (int i = 0; i < 4 * kThreads; ++i) {
    if (out[i] != in[4 * (kThreads - 1 - i / 4) + i % 4]) return false;
  }
  return true;
}

static bool copied_by_each_block(bool copies) {
  alignas(16) static float in[4 * kThreads], out[4 * kThreads];
  for (int i = 0; i < 4 * kThreads; ++i) in[i] = static_cast<float>(i);
  for (const bool now : {true, copies}) {
    launch(copy_to_static_memory, 1, 0, nullptr, static_cast<const float*>(in), static_cast<float*>(out), now);
  }
  for (int i = 0; i < 4 * kThreads; ++i) {
    if (out[i] != in[i]) return false;
  }
  return true;
}

static bool sent(bool waits, int expected = kThreads * int{sizeof(float)}) {
  static float out[2 * kThreads];
  launch_clusters(send_to_each_other, kThreads, 1, 2, (kThreads + 4) * sizeof(float), nullptr,
                  static_cast<float*>(out), waits, expected);
  for (int i = 0; i < 2 * kThreads; ++i) {
    if (out[i] != (i < kThreads ? 1.0f : 0.0f)) return false;
  }
  return true;
}

static bool reversed(bool with_barrier) {
  int out[kThreads];
  launch(reverse, 1, 0, nullptr, static_cast<int*>(out), with_barrier);
  for (int i = 0; i < kThreads; ++i) {
    if (out[i] != kThreads - 1 - i) return false;
  }
  return true;
}

static const char* outcome_of(const std::function<void()>& run) {
  try {
    run();
  } catch (const std::exception& error) {
    return "refused";
  }
  return "ran";
}

template <class Kernel>
static const char* outcome(Kernel kernel, int64_t shared_bytes = 0) {
  return outcome_of([&] { launch(kernel, 1, shared_bytes, nullptr); });
}

int main() {
  double unwritten = 0.0;
  std::printf("barrier: %s\n", reversed(true) ? "right" : "wrong");
  std::printf("no barrier: %s\n", reversed(false) ? "right" : "wrong");
  std::printf("half come: %s\n", outcome(half_come));
  std::printf("lanes missing: %s\n", outcome(some_lanes_exchange));
  std::printf("too much shared memory: %s\n", outcome(half_come, 49 << 10));
  std::printf("no beginning: %s\n", outcome_of([&] { launch(does_not_begin, 1, 0, nullptr, &unwritten); }));
  launch(shared_memory, 1, 64, nullptr, &unwritten);
  std::printf("unwritten: %s\n", unwritten != unwritten ? "NaN" : "a number");
  std::printf("copies: %s\n", copied(true, true) ? "right" : "wrong");
  std::printf("copies without a wait: %s\n", copied(false, true) ? "right" : "wrong");
  std::printf("copies without a barrier: %s\n", copied(true, false) ? "right" : "wrong");
  std::printf("copies at the end: %s\n", outcome_of([] {
    alignas(16) static float in[4 * kThreads];
    launch(end_before_a_copy, 1, sizeof in, nullptr, static_cast<const float*>(in));
  }));
  std::printf("copies of each block: %s\n", copied_by_each_block(true) ? "right" : "wrong");
  std::printf("copies of an earlier block: %s\n", copied_by_each_block(false) ? "right" : "wrong");
  static float numbers[8 * kThreads];
  const auto cooperative = [&](auto kernel, auto... flags) {
    return outcome_of([&] { launch_cooperative(kernel, 0, nullptr, nullptr, static_cast<float*>(numbers), flags...); });
  };
  std::printf("barrier of all blocks: %s\n", cooperative(exchange, false, true));
  std::printf("no barrier of all blocks: %s\n", cooperative(exchange, false, false));
  std::printf("barrier of a block: %s\n", cooperative(exchange, true, true));
  std::printf("no barrier of a block: %s\n", cooperative(exchange, true, false));
  std::printf("barrier before writing: %s\n", cooperative(overwrite, true));
  std::printf("no barrier before writing: %s\n", cooperative(overwrite, false));
  float rounded = 0.0f, exact = 0.0f;
  launch(product_of_a_warp<1>, 1, 0, nullptr, &rounded);
  launch(product_of_a_warp<3>, 1, 0, nullptr, &exact);
  std::printf("one product: %s\n", rounded == 1.0f ? "rounded" : "wrong");
  std::printf("three products: %s\n", exact == 1.0f + 1.0f / 4096 ? "exact" : "wrong");
  std::printf("mail: %s\n", sent(true) ? "right" : "wrong");
  std::printf("mail without a wait: %s\n", sent(false) ? "right" : "wrong");
  std::printf("mail that never comes: %s\n", outcome_of([] { sent(true, 8 * kThreads); }));
  return 0;
}
