"""The thermodynamic variational objective (Masrani et al. 2019), the loss that it makes, and the scales of an
estimator's gradient, from the terms of log-weights."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from .columns import added, finite, normalizer
from .elementary import exp
from .launch import OPTIONS, bits, device_of, scalar
from .memory import double, row_offsets, store
from .terms import SAMPLE_STRIDES, Losses, columns_of_terms, load_terms, observations_a_program, store_loss, tile_of

WARPS = 8
VARYING = ["samples", "columns", "kl_weight", "over_samples", "scale_share", "curvature", "rounding", "loss_share"]


@triton.jit
def weight_of(tile, inside, shift, norm, BETA: tl.constexpr):
    """Return softmax(beta log w), which is uniform at beta = 0 even where a log-weight is -inf."""
    if BETA == 0.0:
        return tl.where(inside, norm[None, :], 0.0)
    else:
        return norm[None, :] * exp((tile - shift[None, :]) * BETA)


@triton.jit(do_not_specialize=[*VARYING, *SAMPLE_STRIDES])
def thermodynamic_scales_kernel(
    losses,
    bounds,
    log_weights,
    scales,
    terms,
    samples,
    columns,
    inner_sizes,
    strides,
    first_stride,
    second_stride,
    third_stride,
    kl_weight,
    over_samples,
    scale_share,
    curvature,
    rounding,
    loss_share,
    BETAS: tl.constexpr,
    WIDTHS: tl.constexpr,
    ONES: tl.constexpr,
    REDUCED: tl.constexpr,
    ACC: tl.constexpr,
    SAMPLES: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """A program takes COLUMNS observations: for each beta two passes over the samples give the sum of the weights and
    the mean of the log-weights; a last pass writes the scales."""
    column = tl.program_id(0).to(columns.dtype) * COLUMNS + tl.arange(0, COLUMNS)
    present = column < columns
    offsets = row_offsets(column, inner_sizes, strides, ONES)
    sample_strides = (first_stride, second_stride, third_stride)
    kl = double(kl_weight).to(ACC)
    bound = tl.zeros((COLUMNS,), tl.float64)
    shifts = ()
    norms = ()
    means = ()
    for j in tl.static_range(len(BETAS)):
        shift = tl.zeros((COLUMNS,), ACC)
        norm = tl.zeros((COLUMNS,), ACC) + double(over_samples).to(ACC)
        if BETAS[j] != 0.0:
            largest = tl.full((COLUMNS,), float("-inf"), ACC)
            total = tl.zeros((COLUMNS,), tl.float64)
            for first in range(0, samples, SAMPLES):
                sample = first + tl.arange(0, SAMPLES)
                inside = (sample < samples)[:, None] & present[None, :]
                tile = load_terms(terms, offsets, sample_strides, sample, inside, kl, ACC)
                largest, total = added(largest, total, tile, BETAS[j])
            shift = finite(largest)
            norm = normalizer(total).to(ACC)
        mean = tl.zeros((COLUMNS,), tl.float64)
        for first in range(0, samples, SAMPLES):
            sample = first + tl.arange(0, SAMPLES)
            inside = (sample < samples)[:, None] & present[None, :]
            tile = load_terms(terms, offsets, sample_strides, sample, inside, kl, ACC)
            weight = weight_of(tile, inside, shift, norm, BETAS[j])
            mean += tl.sum(tl.where(weight == 0.0, 0.0, weight * tile).to(tl.float64), 0)
        bound += WIDTHS[j] * mean
        shifts = shifts + (shift,)
        norms = norms + (norm,)
        means = means + (mean.to(ACC),)
    store(bounds + column, bound, present)
    store_loss(losses, bound, column, columns, double(loss_share), REDUCED)

    share, curved, least = double(scale_share).to(ACC), double(curvature).to(ACC), double(rounding).to(ACC)
    for first in range(0, samples, SAMPLES):
        sample = first + tl.arange(0, SAMPLES)
        inside = (sample < samples)[:, None] & present[None, :]
        tile = load_terms(terms, offsets, sample_strides, sample, inside, kl, ACC)
        slope = tl.zeros((SAMPLES, COLUMNS), ACC)
        curve = tl.zeros((SAMPLES, COLUMNS), ACC)
        for j in tl.static_range(len(BETAS)):
            weight = weight_of(tile, inside, shifts[j], norms[j], BETAS[j])
            if BETAS[j] == 0.0:
                slope += WIDTHS[j] * weight
            else:
                tilt = 1.0 + BETAS[j] * tl.where(weight == 0.0, 0.0, tile - means[j][None, :])
                slope += WIDTHS[j] * weight * tilt
                if len(scales) > 1:
                    curve += WIDTHS[j] * BETAS[j] * weight * (1.0 + (1.0 - 2.0 * weight) * tilt)
        empty = tile == float("-inf")
        decoder = tl.where(empty, 0.0, share * slope)
        at = column.to(tl.int64)[None, :] + sample.to(tl.int64)[:, None] * columns
        store(log_weights + at, tile, inside)
        if len(scales) > 1:
            encoder = tl.where(empty, 0.0, share * (slope - curved * curve))
            smallest = least * tl.abs(encoder)
            raised = tl.where(decoder < 0.0, -smallest, smallest)
            decoder = tl.where(tl.abs(decoder) < smallest, raised, decoder)
            store(scales[1] + at, encoder, inside)
            ratio = tl.where(decoder == 0.0, 0.0, encoder / tl.where(decoder == 0.0, 1.0, decoder))
            store(scales[2] + at, ratio, inside)
        store(scales[0] + at, decoder, inside)


def thermodynamic_scales(
    results: Any, terms: Sequence[Tensor], kl_weight: float, factors: Any, reduction: str
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """Write the loss, the bounds, the log-weights and the scales, and return them."""
    loss, bounds, log_weights, scales = results
    walk, sample_strides = columns_of_terms(terms)
    columns = observations_a_program(walk.count)
    programs = triton.cdiv(walk.count, columns)
    losses = Losses(loss, walk.count, programs, reduction)
    samples = len(log_weights)
    with device_of(loss):
        if programs:
            thermodynamic_scales_kernel[(programs,)](
                losses.parts,
                bounds,
                log_weights,
                tuple(scales),
                tuple(terms),
                samples,
                walk.count,
                walk.inner_sizes,
                walk.strides,
                *sample_strides,
                bits(kl_weight),
                bits(1.0 / samples),
                bits(-1.0 / (max(walk.count, 1) if reduction == "mean" else 1)),
                bits(factors.curvature),
                bits(factors.rounding),
                losses.share,
                BETAS=tuple(factors.partition),
                WIDTHS=tuple(factors.widths),
                ONES=(1,) * len(terms),
                REDUCED=losses.is_reduced,
                ACC=scalar(log_weights.dtype),
                SAMPLES=tile_of(columns, samples),
                COLUMNS=columns,
                **{**OPTIONS, "num_warps": WARPS},
            )
    return losses.finish(), bounds, log_weights, scales
