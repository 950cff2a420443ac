"""Standard normals as a function of (seed, index): Philox4x32-10 (Salmon et al. 2011), then Box-Muller.

The counter is (dimension // 4, observation, sample, stream), the key the seed, as on every backend.
"""

from __future__ import annotations

import triton
import triton.language as tl

VARYING = ("sample_offset", "observation_offset", "stream", "sample_stride", "observation_stride")
"""Integer arguments on which the kernels of noise are not specialized, since they change from call to call."""


@triton.jit
def open_uniform(word, ACC: tl.constexpr):
    """Map a word to (0, 1), exactly in float32: its upper 23 bits plus one half."""
    return ((word >> 9).to(ACC) + 0.5) * 1.1920928955078125e-7


@triton.jit
def cos_sin_of_turns(turns, ACC: tl.constexpr):
    """Compute cos and sin of 2 pi turns, for turns in (0, 1).

    The reduction to an eighth of a turn is exact, so that short Taylor series suffice, without the slow path for large
    angles of the library's functions.
    """
    quarters = 4.0 * turns
    nearest = (quarters + 0.5).to(tl.int32)
    x = (quarters - nearest.to(ACC)) * 1.5707963267948966
    y = x * x
    if tl.float64 == ACC:
        s = 1.0 / 6227020800.0 + y * (-1.0 / 1307674368000.0 + y * (1.0 / 355687428096000.0))
        s = -1.0 / 39916800.0 + y * s
        c = 1.0 / 479001600.0 + y * (-1.0 / 87178291200.0 + y * (1.0 / 20922789888000.0))
    else:
        s = tl.full(y.shape, -1.0 / 39916800.0, ACC)
        c = tl.full(y.shape, 1.0 / 479001600.0, ACC)
    s = x + x * y * (-1.0 / 6.0 + y * (1.0 / 120.0 + y * (-1.0 / 5040.0 + y * (1.0 / 362880.0 + y * s))))
    c = -1.0 / 3628800.0 + y * c
    c = 1.0 + y * (-1.0 / 2.0 + y * (1.0 / 24.0 + y * (-1.0 / 720.0 + y * (1.0 / 40320.0 + y * c))))
    odd = (nearest & 1) == 1
    cosine, sine = tl.where(odd, s, c), tl.where(odd, c, s)
    return tl.where(((nearest + 1) & 2) != 0, -cosine, cosine), tl.where((nearest & 2) != 0, -sine, sine)


@triton.jit
def two_normals(radius_word, angle_word, ACC: tl.constexpr):
    radius = tl.sqrt(-2.0 * tl.log(open_uniform(radius_word, ACC)))
    cosine, sine = cos_sin_of_turns(open_uniform(angle_word, ACC), ACC)
    return radius * cosine, radius * sine


@triton.jit
def sample_indices(samples, sample_stride, observation_stride, sample, observation, sample_offset, present):
    """Return the global indices of samples: entries of ``samples`` (samples, observations), or consecutive ones from
    ``sample_offset`` on if it is None."""
    if samples is None:
        return sample + sample_offset
    else:
        return tl.load(samples + sample * sample_stride + observation * observation_stride, present, other=0)


@triton.jit
def standard_normals(seed, sample, observation, stream, block, ACC: tl.constexpr, BLOCK: tl.constexpr):
    """Return a tile of noise: one row per (sample, observation), columns block * BLOCK to (block + 1) * BLOCK."""
    zero = tl.zeros((sample.shape[0], BLOCK // 4), tl.uint32)
    quad = (block * (BLOCK // 4) + tl.arange(0, BLOCK // 4)).to(tl.uint32)[None, :] + zero
    words = tl.philox(
        seed, quad, observation.to(tl.uint32)[:, None] + zero, sample.to(tl.uint32)[:, None] + zero, zero + stream
    )
    n0, n1 = two_normals(words[0], words[1], ACC)
    n2, n3 = two_normals(words[2], words[3], ACC)
    return tl.interleave(tl.interleave(n0, n2), tl.interleave(n1, n3))
