"""The samples that a budget runs backward: those of largest importance, and one that is drawn from the rest.

The importance of a sample is |a| / sum |a| + |b| / sum |b|, of its scales a in the decoder and b in the encoder. A
program holds all samples of an observation.
"""

from __future__ import annotations

from collections.abc import Sequence

import triton
import triton.language as tl
from torch import Tensor

from .launch import OPTIONS, bits, device_of, power_of_two, scalar
from .memory import double
from .noise import open_uniform
from .overlap import begin_kernel


@triton.jit
def over_sum(sizes, ACC: tl.constexpr):
    """Return 1 / sum, or 0 if the sum is 0."""
    total = tl.sum(sizes.to(tl.float64), 0)
    return tl.where(total == 0.0, 0.0, 1.0 / tl.where(total == 0.0, 1.0, total)).to(ACC)


@triton.jit
def first_of(keys, sample, best):
    """Return the smallest index among the samples whose key is the largest."""
    return tl.min(tl.where(keys == best, sample, 2147483647), 0)


@triton.jit
def entry(numbers, sample, index):
    """Return the number at an index."""
    return tl.sum(tl.where(sample == index, numbers, 0.0), 0)


@triton.jit
def choose(results, at, index, a, b, times, least):
    """Store a chosen sample with its scales, and return 1 if one of them is not 0."""
    a, b = a * times, b * times
    smallest = least * tl.abs(b)
    a = tl.where(tl.abs(a) < smallest, tl.where(a < 0.0, -smallest, smallest), a)
    tl.store(results[0] + at, index.to(tl.int64))
    tl.store(results[1] + at, a)
    tl.store(results[2] + at, b)
    tl.store(results[3] + at, tl.where(a == 0.0, 0.0, b / tl.where(a == 0.0, 1.0, a)))
    return ((a != 0.0) | (b != 0.0)).to(tl.int64)


@triton.jit(do_not_specialize=["samples", "observations", "budget", "observation_offset", "stream", "rounding"])
def select_samples_kernel(
    results,
    decoder,
    encoder,
    seed,
    samples,
    observations,
    decoder_sample_stride,
    decoder_stride,
    encoder_sample_stride,
    encoder_stride,
    budget,
    observation_offset,
    stream,
    rounding,
    ACC: tl.constexpr,
    SAMPLES: tl.constexpr,
):
    begin_kernel()
    observation = tl.program_id(0).to(tl.int64)
    sample = tl.arange(0, SAMPLES)
    inside = sample < samples
    far = sample.to(tl.int64)
    a = tl.load(decoder + far * decoder_sample_stride + observation * decoder_stride, inside, other=0.0).to(ACC)
    b = tl.load(encoder + far * encoder_sample_stride + observation * encoder_stride, inside, other=0.0).to(ACC)
    importance = tl.abs(a) * over_sum(tl.abs(a), ACC) + tl.abs(b) * over_sum(tl.abs(b), ACC)
    importance = tl.where(
        importance == importance, importance, float("inf")
    )  # NaN comes first, and reaches the gradient
    key = tl.where(inside, importance, -1.0)  # -1 for samples that cannot be chosen
    least = double(rounding).to(ACC)
    used = tl.zeros((), tl.int64)
    for place in range(budget - 1):
        index = first_of(key, sample, tl.max(key, 0))
        at = place * observations.to(tl.int64) + observation
        used += choose(results, at, index, entry(a, sample, index), entry(b, sample, index), 1.0, least)
        key = tl.where(sample == index, -1.0, key)
    # Of exponential draws E_i / s_i is smallest at i with probability s_i / sum s.
    zero = tl.zeros((SAMPLES,), tl.uint32)
    where = (observation + observation_offset).to(tl.uint32) + zero
    word, _, _, _ = tl.philox(tl.load(seed), zero, where, sample.to(tl.uint32), zero + stream.to(tl.uint32))
    rest = tl.where(key > 0.0, key, 0.0)
    race = rest / -tl.log(open_uniform(word, ACC))
    index = first_of(race, sample, tl.max(race, 0))
    drawn = entry(rest, sample, index).to(tl.float64)
    # The inverse of the probability with which it was drawn; 0 if nothing is left.
    times = tl.where(drawn > 0.0, tl.sum(rest.to(tl.float64), 0) / tl.where(drawn > 0.0, drawn, 1.0), 0.0).to(ACC)
    at = (budget - 1) * observations.to(tl.int64) + observation
    used += choose(results, at, index, entry(a, sample, index), entry(b, sample, index), times, least)
    tl.store(results[4] + observation, used)


def select_samples(
    results: Sequence[Tensor],
    decoder: Tensor,
    encoder: Tensor,
    seed: Tensor,
    budget: int,
    observation_offset: int,
    stream: int,
    rounding: float,
) -> None:
    """Write the results: samples, their scales in decoder and encoder, the ratio, and the number used."""
    count, observations = decoder.shape
    block = max(power_of_two(count), 32)
    with device_of(decoder) as options:
        select_samples_kernel[(observations,)](
            tuple(results),
            decoder,
            encoder,
            seed,
            count,
            observations,
            *decoder.stride(),
            *encoder.stride(),
            budget,
            observation_offset,
            stream,
            bits(rounding),
            ACC=scalar(results[1].dtype),
            SAMPLES=block,
            # Within a warp, reductions need no shared memory; more warps hold more samples in registers.
            **{**OPTIONS, **options, "num_warps": 1 if block <= 256 else 4 if block <= 4096 else 16},
        )
