"""The fit of a generalized Pareto distribution in high-precision arithmetic, one weight at a time."""

from __future__ import annotations

import math

import mpmath
from torch import Tensor

from iwae_fast.evaluate.diagnostics import tail_size


def exact_pareto_k(log_weights: Tensor) -> float:
    """Compute the estimate of Zhang & Stephens (2009) from the weights themselves, as in the papers: (k,) -> k-hat."""
    with mpmath.workdps(60):  # exponents are unbounded in mpmath
        largest = log_weights.double().topk(tail_size(len(log_weights)) + 1).values.tolist()
        weights = [mpmath.exp(mpmath.mpf(value)) for value in largest]
        x = sorted(weight - weights[-1] for weight in weights if weight > weights[-1])
        n = len(x)
        quartile = x[int(n / 4 + 0.5) - 1]
        points = 30 + math.isqrt(n)
        grid = [
            1 / x[-1] + (1 - mpmath.sqrt(mpmath.mpf(points) / (mpmath.mpf(i) - 0.5))) / (3 * quartile)
            for i in range(1, points + 1)
        ]

        def shape(b: mpmath.mpf) -> mpmath.mpf:
            return mpmath.fsum(mpmath.log1p(-b * each) for each in x) / n

        shapes = [shape(b) for b in grid]
        log_profile = [n * (mpmath.log(-b / k) - k - 1) for b, k in zip(grid, shapes, strict=True)]
        heights = [mpmath.exp(value - max(log_profile)) for value in log_profile]
        mean = mpmath.fsum(b * height for b, height in zip(grid, heights, strict=True)) / mpmath.fsum(heights)
        return float((n * shape(mean) + 5) / (n + 10))
