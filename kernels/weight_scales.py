"""The mean over groups of the bound log[mean of w^power] / power, the loss that it makes, and the scales of an
estimator's gradient, from the terms of log-weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .columns import added, finite, normalizer
from .elementary import exp
from .launch import OPTIONS, bits, device_of, scalar
from .memory import double, row_offsets, store
from .overlap import begin_kernel
from .terms import Losses, columns_of_terms, load_terms, observations_a_program, store_loss, tile_of, warps_of

VARYING = [
    *("samples", "columns", "groups", "kl_weight", "power", "over_power", "over_groups", "log_samples"),
    *("scale_share", "linear", "quadratic", "rounding", "loss_share"),
]


@triton.jit(do_not_specialize=VARYING)
def weight_scales_kernel(
    losses,
    bounds,
    log_weights,
    scales,
    terms,
    samples,
    columns,
    groups,
    inner_sizes,
    strides,
    sample_strides,
    kl_weight,
    power,
    over_power,
    over_groups,
    log_samples,
    scale_share,
    linear,
    quadratic,
    rounding,
    loss_share,
    ONES: tl.constexpr,
    REDUCED: tl.constexpr,
    ACC: tl.constexpr,
    SAMPLES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program takes COLUMNS observations, with ``samples`` samples in each of their groups."""
    begin_kernel()
    column = tl.program_id(0).to(columns.dtype) * COLUMNS + tl.arange(0, COLUMNS)
    present = column < columns
    offsets = row_offsets(column, inner_sizes, strides, ONES)
    kl, tempering = double(kl_weight).to(ACC), double(power).to(ACC)
    share, least = double(scale_share), double(rounding).to(ACC)
    first_order, second_order = double(linear).to(ACC), double(quadratic).to(ACC)
    bound = tl.zeros((COLUMNS,), tl.float64)
    for group in range(groups):
        largest = tl.full((COLUMNS,), float("-inf"), ACC)
        total = tl.zeros((COLUMNS,), tl.float64)
        for first in range(0, samples, SAMPLES):
            sample = first + tl.arange(0, SAMPLES)
            inside = (sample < samples)[:, None] & present[None, :]
            tile = load_terms(terms, offsets, sample_strides, group * samples + sample, inside, kl, ACC)
            largest, total = added(largest, total, tile, tempering)
        shift = finite(largest)
        bound += (tl.log(total) - double(log_samples)) * double(over_power) + shift.to(tl.float64)
        norm = normalizer(total).to(ACC)
        for first in range(0, samples, SAMPLES):
            sample = first + tl.arange(0, SAMPLES)
            inside = (sample < samples)[:, None] & present[None, :]
            tile = load_terms(terms, offsets, sample_strides, group * samples + sample, inside, kl, ACC)
            at = column.to(tl.int64)[None, :] + (group * samples + sample).to(tl.int64)[:, None] * columns
            store(log_weights + at, tile, inside)
            weight = norm[None, :] * exp((tile - shift[None, :]) * tempering)
            scaled = share.to(ACC) * weight
            if len(scales) == 1:
                store(scales[0] + at, scaled, inside)
            else:
                slope = first_order + second_order * weight
                raised = least * tl.abs(slope)
                raised = tl.where(raised < 1.0, 1.0, raised)  # NaN stays
                store(scales[0] + at, scaled * raised, inside)
                store(scales[1] + at, scaled * slope, inside)
                store(scales[2] + at, slope / raised, inside)
    bound *= double(over_groups)
    store(bounds + column, bound, present)
    store_loss(losses, bound, column, columns, double(loss_share), REDUCED)


def weight_scales(
    results: Any, terms: Sequence[Tensor], kl_weight: float, factors: Any, reduction: str
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Write the loss, the bounds, the log-weights and the scales, and return them."""
    loss, bounds, log_weights, scales = results
    walk, sample_strides = columns_of_terms(terms)
    columns = observations_a_program(walk.count)
    programs = triton.cdiv(walk.count, columns)
    losses = Losses(loss, walk.count, programs, reduction)
    samples = len(log_weights) // factors.groups
    share = -1.0 / (factors.groups * (max(walk.count, 1) if reduction == "mean" else 1))
    with device_of(loss) as options:
        if programs:
            weight_scales_kernel[(programs,)](
                losses.parts,
                bounds,
                log_weights,
                tuple(scales),
                tuple(terms),
                samples,
                walk.count,
                factors.groups,
                walk.inner_sizes,
                walk.strides,
                sample_strides,
                bits(kl_weight),
                bits(factors.power),
                bits(1.0 / factors.power),
                bits(1.0 / factors.groups),
                bits(math.log(samples)),
                bits(share),
                bits(factors.linear),
                bits(factors.quadratic),
                bits(factors.rounding),
                losses.share,
                ONES=(1,) * len(terms),
                REDUCED=losses.is_reduced,
                ACC=scalar(log_weights.dtype),
                SAMPLES=tile_of(columns, samples),
                COLUMNS=columns,
                **{**OPTIONS, **options, "num_warps": warps_of(columns)},
            )
    return losses.finish(), bounds, log_weights, scales
