// The fused loss that reads every number once, for GPUs with clusters (from sm_90 on).
//
// A cluster of blocks processes one observation at a time. Its rows stay in the blocks' shared memory from the first
// look, which gives the log-weights, to the second, which gives the gradients:
//
//   rows arrive by asynchronous copies -> sums of the rows -> log-weights, sent to every block of the cluster
//   -> weights -> gradients; as soon as a row is done, its place is refilled for a later observation.
//
// Every thread reads only those elements of a row that it has copied itself, so a row needs no barrier. Parameters that
// are broadcast along the samples are copied once per observation and block; they arrive two observations ahead, so
// that the barrier in between also makes them visible to all threads.
#pragma once

#include "async.h"
#include "cluster.h"
#include "columns.h"
#include "density_backward.h"
#include "loss_outputs.h"

namespace iwae {
namespace IWAE_ISA {

constexpr int kFewestSamplesOnce = 4;      // with fewer, most warps of a block have no row
constexpr int kBroadcastPlaces = 3;        // of the observation in progress and the next two

// Loads of elements that were copied to shared memory, where a row is the number of its first element.
template <class Base>
struct Staged : Base {
  __device__ __forceinline__ static typename Base::Raw load(const View& view, int64_t row, int64_t feature) {
    return Base::load_from(dynamic_shared<char>(), view, row, feature);
  }
};

// The number of small blocks per multiprocessor, of kThreads threads each. They leave 80 registers to a thread, or 128
// where it holds eight numbers of three parameters or more: a load of 16-bit numbers has eight. A large block has as
// many threads.
template <class Density, class Loader>
constexpr int kOnceBlocks = Loader::kHalf && Density::kParameters >= 3 ? kSmallBlocks - 1 : kSmallBlocks;
template <class Density, class Loader>
constexpr int kLargeBlock = kThreads * kOnceBlocks<Density, Loader>;

struct OncePlan {
  Rows rows;
  int64_t observations = 0;
  int samples = 0;
  int blocks = 1;         // of a cluster
  int rows_a_block = 0;   // at most; at least 1
  int rows_a_team = 0;    // at most
  int stages = 1;         // observations whose rows are in shared memory
  int64_t observation_strides[kOperands] = {}, sample_strides[kOperands] = {};
  unsigned by_row = 0;    // parameters that are copied per row, as bits; the others are copied per observation
  unsigned numbers = 0;   // parameters that are one number per observation
  int row_bytes = 0, observation_bytes = 0;
  int place[kMaxParameters] = {};  // in bytes, of a parameter within a row or within those of an observation
  // Places in shared memory, in bytes.
  int sums_at = 0, observations_at = 0, rows_at = 0;
  int64_t bytes = 0;

  __device__ __forceinline__ int64_t offset(int operand, int64_t observation, int sample) const {
    return observation * observation_strides[operand] + sample * sample_strides[operand];
  }

  // The logarithm of the bytes of an element that was copied.
  template <class Loader>
  __device__ __forceinline__ int bytes_log2(int p) const {
    return Loader::kHalf && !rows.view[p].wide ? 1 : 2;
  }

  // Lays out shared memory for a number of blocks and stages.
  void lay_out(int blocks_a_cluster, int stages_a_block, int teams) {
    const auto aligned = [](int64_t bytes) { return (bytes + 15) / 16 * 16; };
    blocks = blocks_a_cluster;
    stages = stages_a_block;
    rows_a_block = static_cast<int>(ceil_divide(samples, blocks));
    rows_a_team = static_cast<int>(ceil_divide(rows_a_block, teams));
    // Two mailboxes and the log-weights of two observations come first.
    const int64_t sums = 2 * int64_t{sizeof(Mailbox)} + aligned(2 * int64_t{sizeof(float)} * samples);
    const int64_t own_observations = sums + aligned(int64_t{sizeof(double)} * rows_a_block);
    const int64_t own_rows = own_observations + int64_t{kBroadcastPlaces} * observation_bytes;
    bytes = own_rows + int64_t{stages} * rows_a_block * row_bytes;
    sums_at = static_cast<int>(sums);
    observations_at = static_cast<int>(own_observations);
    rows_at = static_cast<int>(own_rows);
  }
};

template <class Density, class Loader, int kBlock>
IWAE_BOUNDED_KERNEL(kBlock, (kBlock == kThreads ? kOnceBlocks<Density, Loader> : 1))
iwae_loss_once_kernel(const OncePlan plan, const LossOutputs out, const unsigned wanted) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
  return;  // without clusters: see iwae_loss.h
#else
  begin_kernel();
  using T = float;
  const Rows& rows = plan.rows;
  const Team team(rows.lanes_log2);
  const int teams = kBlock >> rows.lanes_log2, own = static_cast<int>(threadIdx.x) >> rows.lanes_log2;
  const int rank = cluster_rank(), first_sample = rank * plan.samples / plan.blocks;
  const int own_rows = (rank + 1) * plan.samples / plan.blocks - first_sample;
  const int cluster = static_cast<int>(blockIdx.x) / plan.blocks, clusters = static_cast<int>(gridDim.x) / plan.blocks;
  const int features = static_cast<int>(rows.features);
  char* memory = dynamic_shared<char>();
  Mailbox* const mailboxes = reinterpret_cast<Mailbox*>(memory);
  T* const log_weights_of_two = reinterpret_cast<T*>(mailboxes + 2);
  double* const sums = reinterpret_cast<double*>(memory + plan.sums_at);

  const auto observation_of = [&](int turn) { return cluster + int64_t{turn} * clusters; };
  const auto observation_place = [&](int turn) {
    return plan.observations_at + turn % kBroadcastPlaces * plan.observation_bytes;
  };
  const auto row_place = [&](int turn, int row) {
    return plan.rows_at + ((turn & (plan.stages - 1)) * plan.rows_a_block + row) * plan.row_bytes;
  };
  // Starts the copies of the elements of some lanes: those that the same lanes of a team read.
  const auto copy = [&](int p, int place, int64_t offset, int lane, int lanes) {
    const int log2 = plan.template bytes_log2<Loader>(p), vector = Loader::kWidth << log2, end = features << log2;
    char* to = memory + place + plan.place[p];
    const char* from = rows.view[p].data + (offset << log2);
#pragma unroll 1
    for (int at = lane * vector; at < end; at += lanes * vector) {
      copy_sixteen(to + at, from + at);
      if (vector == 32) copy_sixteen(to + at + 16, from + at + 16);
    }
  };
  // One number for all features is not copied, but stored once per feature.
  const auto fill = [&](int p, int place, int64_t offset) {
    const View& view = rows.view[p];
    T* to = reinterpret_cast<T*>(memory + place + plan.place[p]);
    const T number = load_one<T>(view.data, view.dtype, offset);
#pragma unroll 1
    for (int feature = threadIdx.x; feature < features; feature += kBlock) to[feature] = number;
  };
  // One group of copies each: the broadcast parameters of an observation, and row `number` of a team.
  const auto start_observation = [&](int turn) {
    const int64_t observation = observation_of(turn);
    if (observation < plan.observations) {
#pragma unroll
      for (int p = 0; p < Density::kParameters; ++p) {
        if (plan.by_row >> p & 1) continue;
        const int64_t offset = plan.offset(p, observation, 0);
        if (plan.numbers >> p & 1) {
          fill(p, observation_place(turn), offset);
        } else {
          copy(p, observation_place(turn), offset, threadIdx.x, kBlock);
        }
      }
    }
    end_group_of_copies();
  };
  const auto start_row = [&](int turn, int number) {
    const int64_t observation = observation_of(turn);
    const int row = own + number * teams;
    if (observation < plan.observations && row < own_rows) {
#pragma unroll
      for (int p = 0; p < Density::kParameters; ++p) {
        if (!(plan.by_row >> p & 1)) continue;
        copy(p, row_place(turn, row), plan.offset(p, observation, first_sample + row), team.lane, team.lanes);
      }
    }
    end_group_of_copies();
  };

  if (threadIdx.x == 0) {
    open_mailbox(mailboxes);
    open_mailbox(mailboxes + 1);
  }
  arrive_at_cluster();  // no block may send to another that has not started
  start_observation(0);
  if (plan.stages == 1) start_observation(1);
#pragma unroll 1
  for (int turn = 0; turn < plan.stages; ++turn) {
#pragma unroll 1
    for (int number = 0; number < plan.rows_a_team; ++number) start_row(turn, number);
    if (plan.stages == 2 && turn == 0) start_observation(1);
  }
  // The groups of later stages that may be under way while those of an observation must have arrived.
  const int later = (plan.stages - 1) * plan.rows_a_team;
  wait_for_copies(later + plan.stages - 1 + plan.rows_a_team);
  __syncthreads();

  for (int turn = 0; observation_of(turn) < plan.observations; ++turn) {
    const int64_t observation = observation_of(turn);
    // The row `number` of this team.
    Tile tile;
    const auto take = [&](int number) {
      const int row = own + number * teams;
      tile.rows = row < own_rows ? 1 : 0;
      const int existing = tile.rows ? row : 0;
#pragma unroll
      for (int p = 0; p < Density::kParameters; ++p) {
        const int place = plan.by_row >> p & 1 ? row_place(turn, existing) : observation_place(turn);
        tile.offset[p] = (place + plan.place[p]) >> plan.template bytes_log2<Loader>(p);
      }
      tile.offset[kMaskOperand] = plan.offset(kMaskOperand, observation, first_sample + existing);
      return row;
    };
    const auto log_ratio_of = [&](int row) {
      const View& view = rows.view[kRowIn];
      return load_one<double>(view.data, view.dtype, plan.offset(kRowIn, observation, first_sample + row));
    };
    // Two mailboxes take turns: a block that sends for the turn after the next has mail from every block for the next
    // one, and they sent it when they had read that of this turn.
    Mailbox* const mailbox = mailboxes + (turn & 1);
    T* const log_weights = log_weights_of_two + (turn & 1) * plan.samples;
    if (threadIdx.x == 0) expect_bytes(mailbox, plan.samples * int{sizeof(T)});
    // Loaded before the sums, which take longer than the load.
    const double ratio = static_cast<int>(threadIdx.x) < own_rows ? log_ratio_of(threadIdx.x) : 0.0;
#pragma unroll 1
    for (int number = 0; number < plan.rows_a_team; ++number) {
      wait_for_copies(later + plan.stages - 1 + plan.rows_a_team - 1 - number);
      const int row = take(number);
      double total[1];
      sum_rows<Density, Loader>(rows, tile, team, total);
      if (tile.rows != 0 && team.lane == 0) sums[row] = total[0];
    }
    wait_for_copies(later);  // the broadcast parameters of the next observation
    __syncthreads();
    if (turn == 0) wait_for_cluster();
#pragma unroll 1
    for (int row = threadIdx.x; row < own_rows; row += kBlock) {
      const double own_ratio = row == static_cast<int>(threadIdx.x) ? ratio : log_ratio_of(row);
      const T log_weight = static_cast<T>(sums[row] + own_ratio);
#pragma unroll 1
      for (int other = 0; other < plan.blocks; ++other) {
        send(log_weights + first_sample + row, mailbox, other, log_weight);
      }
    }
    wait_for_mail(mailbox, turn >> 1 & 1);
    // Each warp computes the whole sum in the same order, which is faster than another barrier.
    const int lane = threadIdx.x % kWarp;
    T largest = -T(INFINITY);
#pragma unroll 1
    for (int i = lane; i < plan.samples; i += kWarp) largest = log_weights[i] > largest ? log_weights[i] : largest;
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      const T other = __shfl_xor_sync(kAllLanes, largest, distance);
      largest = other > largest ? other : largest;
    }
    const T shift = finite(largest);
    double total = 0.0;
#pragma unroll 1
    for (int i = lane; i < plan.samples; i += kWarp) total += static_cast<double>(weight_of(log_weights[i], shift));
    for (int distance = kWarp / 2; distance > 0; distance /= 2) {
      total += __shfl_xor_sync(kAllLanes, total, distance);
    }
    const double scale = normalizer(total);
    const auto weight = [&](int sample) { return static_cast<T>(weight_of(log_weights[sample], shift) * scale); };
#pragma unroll 1
    for (int row = threadIdx.x; row < own_rows; row += kBlock) {
      const int64_t at = plan.offset(kRowOut, observation, first_sample + row);
      reinterpret_cast<T*>(rows.view[kRowOut].data)[at] = weight(first_sample + row);
    }
    if (rank == 0 && threadIdx.x == 0) {
      const double bound = log_mean(static_cast<double>(shift), total, plan.samples);
      write_bound<T>(out, observation, bound);
      if (out.reduced != nullptr) out.reduced[observation] = -bound;
    }
    start_observation(turn + 2);
#pragma unroll 1
    for (int number = 0; number < plan.rows_a_team; ++number) {
      const int row = take(number);
      const T coefficient[1] = {tile.rows != 0 ? -static_cast<T>(out.share) * weight(first_sample + row) : T(0)};
#pragma unroll
      for (int p = 0; p < Density::kParameters; ++p) {
        tile.offset[kGradients + p] = plan.offset(kGradients + p, observation, tile.rows ? first_sample + row : 0);
      }
      if (wanted != 0) write_gradients<Density, Loader>(rows, tile, team, coefficient, wanted);
      start_row(turn + plan.stages, number);
    }
  }
  wait_for_copies(0);
  if (observation_of(0) >= plan.observations) wait_for_cluster();
#endif
}

// The rows of a loss, with those of an observation along the inner axis.
template <class Density, class Loader>
Rows loss_rows(const IWAELossCall& call, const Operand* gradients, const View* views) {
  const Operand weights = contiguous(call.log_prob, DType::kFloat32, call.shape, call.shape.dims - 1);
  Operands operands;
  set_operands(operands, call, call.log_ratio, weights, gradients);
  return plan_rows<Density, Loader>(call, leading_axes(call.shape), operands, views, 0);
}

// Returns the plan of a loss whose rows fit a cluster's shared memory, with `blocks` = 0 if they do not.
template <class Density, class Loader>
OncePlan plan_once(const IWAELossCall& call, const Rows& rows, int64_t observations, int& block) {
  OncePlan plan, none;
  none.blocks = 0;
  const int64_t row_bytes = rows.features * int64_t{sizeof(float)};
  if (row_bytes > kLargeBlockBytes || call.shape.sizes[0] > kLargeBlockBytes) return none;
  if (rows.walk.outer_dims > 1) return none;  // rare, and a kernel that divides is several times as large
  plan.rows = rows;
  plan.rows.rows = 1;
  for (int o = 0; o < kOperands; ++o) {
    plan.observation_strides[o] = rows.walk.outer_strides[0][o];
    plan.sample_strides[o] = rows.walk.inner_strides[o];
  }
  plan.observations = observations;
  plan.samples = static_cast<int>(call.shape.sizes[0]);
  for (int p = 0; p < Density::kParameters; ++p) {
    View& view = plan.rows.view[p];
    const bool by_row = rows.walk.inner_strides[p] != 0;
    if (view.splat) {
      if (by_row) return none;  // one number per row is rare
      plan.numbers |= 1u << p;
      view.splat = false;
      view.wide = Loader::kHalf;
    }
    int& bytes = by_row ? plan.row_bytes : plan.observation_bytes;
    if (by_row) plan.by_row |= 1u << p;
    plan.place[p] = bytes;
    bytes += static_cast<int>(rows.features) * (view.wide ? int{sizeof(float)} : Loader::kBytes);
  }
  if (plan.by_row == 0) return none;
  for (const bool large : {false, true}) {
    block = large ? kLargeBlock<Density, Loader> : kThreads;
    const int teams = block >> rows.lanes_log2;
    for (const int stages : {2, 1}) {
      for (int blocks = 1; blocks <= kMostBlocksACluster && blocks <= plan.samples; blocks *= 2) {
        plan.lay_out(blocks, stages, teams);
        if (plan.bytes > (large ? kLargeBlockBytes : kSmallBlockBytes)) continue;
        // Few observations are spread over more blocks, while a team has several rows.
        while (2 * plan.blocks <= kMostBlocksACluster && 2 * plan.blocks <= plan.samples && plan.rows_a_team > 1 &&
               observations * plan.blocks * block < kManyThreads) {
          plan.lay_out(2 * plan.blocks, stages, teams);
        }
        return plan;
      }
    }
  }
  return none;
}

// Computes a loss in one launch if its rows can be read by a loader and fit a cluster; returns false otherwise.
template <class Density, class Loader>
bool launch_once(const IWAELossCall& call, const Operand* gradients, unsigned wanted) {
  View views[kOperands];
  if (!fits<Density, Loader>(call, gradients, views)) return false;
  const int64_t observations = observations_of(call);
  int block = 0;
  const OncePlan plan =
      plan_once<Density, Loader>(call, loss_rows<Density, Loader>(call, gradients, views), observations, block);
  if (plan.blocks == 0) return false;
  const LossOutputs out = outputs_of(call, observations);
  const auto kernel = block == kThreads ? iwae_loss_once_kernel<Density, Staged<Loader>, kThreads>
                                        : iwae_loss_once_kernel<Density, Staged<Loader>, kLargeBlock<Density, Loader>>;
  launch_clusters(kernel, block, observations, plan.blocks, plan.bytes, call.cuda_stream, plan, out, wanted);
  add_parts<float>(call, out, observations);
  return true;
}

// Computes a loss in one launch where that is possible; returns false otherwise.
template <class Density>
bool iwae_loss_once(const IWAELossCall& call, const Operand* gradients, unsigned wanted) {
  if constexpr (std::is_same<typename Density::Scalar, float>::value && !Density::kLong) {
    if (call.shape.sizes[0] < kFewestSamplesOnce || !has_clusters()) return false;
    if (launch_once<Density, Vector<float, 1>>(call, gradients, wanted)) return true;
    // Gradients of float16 are not written by the forward pass: they could underflow before they are scaled.
    if constexpr (Density::kHalves) return launch_once<Density, Vector<BFloat16, 1>>(call, gradients, wanted);
  }
  return false;
}

}  // namespace IWAE_ISA
}  // namespace iwae
