"""The value of a bound log[mean of w^power] / power, and the scales of an estimator's gradient, from log-weights."""

from __future__ import annotations

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from ..checks import accumulation_dtype
from .columns import (
    TILE,
    columns_a_program,
    columns_alignment,
    columns_of,
    load_samples,
    normalizer,
    totals,
)
from .elementary import exp
from .launch import OPTIONS, bits, device_of, power_of_two, scalar
from .memory import double, multiple, row_offset, store
from .overlap import begin_kernel


@triton.jit(do_not_specialize=["samples", "columns", "power", "factor", "linear", "quadratic", "rounding"])
def weight_scales_kernel(
    value,
    decoder,
    encoder,
    ratio,
    log_weights,
    samples,
    columns,
    inner_sizes,
    strides,
    sample_stride,
    result_sample_stride,
    power,
    factor,
    linear,
    quadratic,
    rounding,
    ACC: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    SAMPLES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    begin_kernel()
    columns = multiple(columns, ALIGNMENT)
    sample_stride = multiple(sample_stride, ALIGNMENT)
    result_sample_stride = multiple(result_sample_stride, ALIGNMENT)
    column = tl.program_id(0).to(columns.dtype) * COLUMNS + tl.arange(0, COLUMNS)
    present = column < columns
    offset = row_offset(column, inner_sizes, strides[0], 1)
    tempering = double(power).to(ACC)
    shift, total = totals(log_weights, offset, sample_stride, samples, present, ACC, SAMPLES, COLUMNS, tempering)
    mean = (tl.log(total) - tl.log(samples.to(tl.float64))) / double(power)
    store(value + column, mean + shift.to(tl.float64), present)
    scale = normalizer(total).to(ACC)
    by, first_order, second_order = double(factor).to(ACC), double(linear).to(ACC), double(quadratic).to(ACC)
    least = double(rounding).to(ACC)
    result_offset = row_offset(column, inner_sizes, strides[1], 1)
    for first in range(0, samples, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        tile = load_samples(log_weights, offset, sample_stride, sample, samples, present, ACC)
        weight = scale[None, :] * exp((tile - shift[None, :]) * tempering)
        slope = first_order + second_order * weight
        raised = least * tl.abs(slope)
        raised = tl.where(raised < 1.0, 1.0, raised)  # NaN stays
        at = result_offset[None, :] + sample.to(tl.int64)[:, None] * result_sample_stride
        inside = (sample < samples)[:, None] & present[None, :]
        store(decoder + at, by * weight * raised, inside)
        store(encoder + at, by * weight * slope, inside)
        store(ratio + at, slope / raised, inside)


def weight_scales(log_weights: Tensor, factors: Any, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    samples_first = log_weights.movedim(dim, 0)
    value = samples_first.new_empty(samples_first.shape[1:], dtype=accumulation_dtype(log_weights))
    decoder, encoder, ratio = (log_weights.new_empty(log_weights.shape, dtype=value.dtype) for _ in range(3))
    result = decoder.movedim(dim, 0)
    walk = columns_of(samples_first, result[0])
    columns = columns_a_program(walk.count)
    with device_of(log_weights) as options:
        weight_scales_kernel[(triton.cdiv(walk.count, columns),)](
            value,
            decoder,
            encoder,
            ratio,
            log_weights,
            len(samples_first),
            walk.count,
            walk.inner_sizes,
            walk.strides,
            samples_first.stride(0),
            result.stride(0),
            **{name: bits(number) for name, number in factors._asdict().items()},
            ACC=scalar(value.dtype),
            ALIGNMENT=columns_alignment(walk, samples_first, result),
            # k hardly changes while a model trains, so a compilation for it pays: 50 samples in a tile of 256 would
            # leave most of the threads without work.
            SAMPLES=min(TILE // columns, power_of_two(len(samples_first))),
            COLUMNS=columns,
            **OPTIONS,
            **options,
        )
    return value, decoder, encoder, ratio
