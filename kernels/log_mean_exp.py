"""logsumexp over an axis minus log k; its gradient is the upstream one times the normalized weights."""

from __future__ import annotations

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
    log_mean,
    normalizer,
    totals,
)
from .elementary import exp
from .launch import OPTIONS, device_of, scalar, tile_rows
from .memory import multiple, row_offset, store
from .overlap import begin_kernel


@triton.jit(do_not_specialize=["samples", "columns"])
def log_mean_exp_kernel(
    bound,
    log_weights,
    samples,
    columns,
    inner_sizes,
    strides,
    sample_stride,
    ACC: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    SAMPLES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    begin_kernel()
    columns = multiple(columns, ALIGNMENT)
    sample_stride = multiple(sample_stride, ALIGNMENT)
    column = tl.program_id(0).to(columns.dtype) * COLUMNS + tl.arange(0, COLUMNS)
    present = column < columns
    offset = row_offset(column, inner_sizes, strides[0], 1)
    shift, total = totals(log_weights, offset, sample_stride, samples, present, ACC, SAMPLES, COLUMNS)
    store(bound + column, log_mean(shift, total, samples), present)


@triton.jit(do_not_specialize=["samples", "columns"])
def log_mean_exp_gradient_kernel(
    gradient,
    grad,
    log_weights,
    samples,
    columns,
    inner_sizes,
    strides,
    sample_stride,
    gradient_sample_stride,
    ACC: tl.constexpr,
    ALIGNMENT: tl.constexpr,
    SAMPLES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    begin_kernel()
    columns = multiple(columns, ALIGNMENT)
    sample_stride = multiple(sample_stride, ALIGNMENT)
    column = tl.program_id(0).to(columns.dtype) * COLUMNS + tl.arange(0, COLUMNS)
    present = column < columns
    gradient_sample_stride = multiple(gradient_sample_stride, ALIGNMENT)
    offset = row_offset(column, inner_sizes, strides[0], 1)
    shift, total = totals(log_weights, offset, sample_stride, samples, present, ACC, SAMPLES, COLUMNS)
    incoming = tl.load(grad + row_offset(column, inner_sizes, strides[1], 1), present, other=0.0)
    scale = (incoming.to(tl.float64) * normalizer(total)).to(ACC)
    scale = tl.where(total == 0.0, 0.0, scale)
    gradient_offset = row_offset(column, inner_sizes, strides[2], 1)
    for first in range(0, samples, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        tile = load_samples(log_weights, offset, sample_stride, sample, samples, present, ACC)
        weighted = scale[None, :] * exp(tile - shift[None, :])
        weighted = tl.where(incoming[None, :] == 0.0, 0.0, weighted)  # also in a column with NaN
        address = gradient + (gradient_offset[None, :] + sample.to(tl.int64)[:, None] * gradient_sample_stride)
        store(address, weighted, (sample < samples)[:, None] & present[None, :])


def log_mean_exp(log_weights: Tensor, dim: int) -> Tensor:
    samples_first = log_weights.movedim(dim, 0)
    bound = samples_first.new_empty(samples_first.shape[1:], dtype=accumulation_dtype(log_weights))
    walk = columns_of(samples_first)
    columns = columns_a_program(walk.count)
    with device_of(log_weights) as options:
        log_mean_exp_kernel[(triton.cdiv(walk.count, columns),)](
            bound,
            log_weights,
            len(samples_first),
            walk.count,
            walk.inner_sizes,
            walk.strides,
            samples_first.stride(0),
            ACC=scalar(bound.dtype),
            ALIGNMENT=columns_alignment(walk, samples_first),
            SAMPLES=tile_rows(TILE // columns, len(samples_first)),
            COLUMNS=columns,
            **OPTIONS,
            **options,
        )
    return bound


def log_mean_exp_backward(grad: Tensor, log_weights: Tensor, dim: int) -> Tensor:
    samples_first = log_weights.movedim(dim, 0)
    gradient = log_weights.new_empty(log_weights.shape)
    gradient_samples_first = gradient.movedim(dim, 0)
    walk = columns_of(samples_first, grad, gradient_samples_first[0])
    columns = columns_a_program(walk.count)
    with device_of(log_weights) as options:
        log_mean_exp_gradient_kernel[(triton.cdiv(walk.count, columns),)](
            gradient,
            grad,
            log_weights,
            len(samples_first),
            walk.count,
            walk.inner_sizes,
            walk.strides,
            samples_first.stride(0),
            gradient_samples_first.stride(0),
            ACC=scalar(accumulation_dtype(log_weights)),
            ALIGNMENT=columns_alignment(walk, samples_first, gradient_samples_first),
            SAMPLES=tile_rows(TILE // columns, len(samples_first)),
            COLUMNS=columns,
            **OPTIONS,
            **options,
        )
    return gradient
