// The value of a bound log[mean of w^power] / power, and the scales of an estimator's gradient, from the log-weights.
#pragma once

#include "../math/weight_scales.h"
#include "columns.h"

namespace iwae {
namespace IWAE_ISA {

// The results per sample, which have the same strides.
struct ScaleViews {
  View decoder, encoder, ratio;
  int64_t sample_stride = 0;
};

template <class T, int kWide>
IWAE_KERNEL weight_scales_kernel(const Columns<2> columns, const Parts<T> parts, const ScaleFactors<T> by, T* value,
                                 const ScaleViews results) {
  begin_kernel();
  const Spot<kWide> spot(columns);
  Held<T, kWide> held(columns, spot);
  Total<T> total[kWide];
  const bool is_held = total_of(columns, spot, parts, held, total);
  if (!spot.present()) return;
  int64_t offset[2];
  columns.walk.offsets(spot.column, offset);
  T scale[kWide];
#pragma unroll
  for (int w = 0; w < kWide; ++w) {
    scale[w] = static_cast<T>(normalizer(total[w].sum));
    if (spot.split == 0 && spot.sample_lane == 0) {
      const double mean = log_mean(finite(total[w].largest), total[w].sum, columns.samples);
      value[spot.column + w] = static_cast<T>(mean / columns.power);
    }
  }
  for_weights(columns, spot, held, is_held, total, [&](int64_t sample, T(&weights)[kWide]) {
    T decoder[kWide], encoder[kWide], ratio[kWide];
#pragma unroll
    for (int w = 0; w < kWide; ++w) {
      const WeightScales<Math<T>> scales = weight_scales_of<Math<T>>(scale[w] * weights[w], by);
      decoder[w] = scales.decoder;
      encoder[w] = scales.encoder;
      ratio[w] = scales.ratio;
    }
    const int64_t at = offset[1] + sample * results.sample_stride;
    store_weights(results.decoder, at, decoder);
    store_weights(results.encoder, at, encoder);
    store_weights(results.ratio, at, ratio);
  });
}

// A block reads this many samples of its columns by itself: a second launch costs more than their loads.
constexpr int64_t kSamplesOfOneLaunch = 1024;

template <class T>
void weight_scales(const WeightScalesCall& call) {
  const Operand* operands[2] = {&call.log_weights, &call.decoder};
  Columns<2> columns = columns_of<T>(call.shape, operands, 0b11u);
  columns.power = call.power;
  if (columns.samples <= kSamplesOfOneLaunch) {
    columns.splits = 1;
    columns.samples_a_split = columns.samples;
  }
  const Parts<T> parts = parts_of<T>(columns, call);
  const ScaleViews results = {view_of(call.decoder, 0), view_of(call.encoder, 0), view_of(call.ratio, 0),
                              call.decoder.strides[0]};
  with_width<T>(columns, [&](auto width) {
    launch(weight_scales_kernel<T, decltype(width)::value>, columns.blocks(), 0, call.cuda_stream, columns, parts,
           ScaleFactors<T>(call), static_cast<T*>(call.value), results);
  });
}

}  // namespace IWAE_ISA
}  // namespace iwae
