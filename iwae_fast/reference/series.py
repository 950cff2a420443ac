"""Series with the Bernoulli numbers, and functions whose direct formulas cancel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

BERNOULLI_NUMBERS = (
    1 / 6,
    -1 / 30,
    1 / 42,
    -1 / 30,
    5 / 66,
    -691 / 2730,
    7 / 6,
    -3617 / 510,
    43867 / 798,
    -174611 / 330,
)
"""The Bernoulli numbers B_2, B_4, ..."""

STIRLING_TERMS, STIRLING_FROM = 6, 16.0
"""Number of terms of Stirling's series, and the smallest argument for which they are exact up to float64's rounding."""

HALF_LOG_2PI = 0.5 * math.log(2.0 * math.pi)

LOG1P_COEFFICIENTS = tuple(1.0 / (2 * n + 1) for n in range(1, 6))
LOG1P_UP_TO = 0.05
"""|u| below which the series of log(1 + u) with these coefficients is exact up to float64's rounding."""


def polynomial(coefficients: tuple[float, ...], x: Tensor) -> Tensor:
    """Sum coefficients[i] x^i by Horner's scheme."""
    total = torch.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def log_gamma_remainder(z: Tensor, log_z: Tensor) -> Tensor:
    """Compute log Gamma(z) - (z - 1/2) log z + z - log(2 pi) / 2, which is 1 / (12 z) for large z (float64).

    Any z >= 0 is allowed, also one that underflows or overflows, since its logarithm is given.
    """
    near = z < STIRLING_FROM
    small, inverse = torch.where(near, z, 1.0), torch.where(near, 1.0, z).reciprocal()
    series = inverse * polynomial(
        tuple(b / (2 * n * (2 * n - 1)) for n, b in enumerate(BERNOULLI_NUMBERS[:STIRLING_TERMS], 1)), inverse.square()
    )
    log_small = torch.where(near, log_z, 0.0)
    return torch.where(near, torch.lgamma(1.0 + small) - (small + 0.5) * log_small + small - HALF_LOG_2PI, series)


def digamma_remainder(z: Tensor) -> Tensor:
    """Compute z (log z - digamma(z)) - 1/2, which is 1 / (12 z) for large z and 1/2 at 0 (float64): minus z times the
    derivative of :func:`log_gamma_remainder`."""
    near = z < STIRLING_FROM
    small, inverse = torch.where(near, z, 1.0), torch.where(near, 1.0, z).reciprocal()
    series = inverse * polynomial(
        tuple(b / (2 * n) for n, b in enumerate(BERNOULLI_NUMBERS[:STIRLING_TERMS], 1)), inverse.square()
    )
    return torch.where(near, 0.5 + torch.xlogy(small, small) - small * torch.digamma(1.0 + small), series)


def scaled_deviation(scale: Tensor, change: Tensor, relative: Tensor, log_ratio: Tensor) -> Tensor:
    """Compute s (u - log(1 + u)), a deviance, which is s u^2 / 2 near u = 0, without cancellation.

    Args:
        scale: s.
        change: s u, which may be finite and nonzero where s overflows and u underflows.
        relative: u.
        log_ratio: log(1 + u), used where u is not near 0.
    """
    near = relative.abs() < LOG1P_UP_TO
    u = torch.where(near, relative, 0.0)
    inverse = (2.0 + u).reciprocal()
    r = u * inverse  # log(1 + u) = 2 artanh(r)
    per_change = r * (1.0 - 2.0 * inverse * r * polynomial(LOG1P_COEFFICIENTS, r.square()))
    far = torch.where(change.isinf(), change * relative, change - scale * torch.where(near, 0.0, log_ratio))
    return torch.where(near, change * per_change, far)
