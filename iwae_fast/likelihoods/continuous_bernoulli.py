"""Gray levels with a density on [0, 1]."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from ..ops.densities import bernoulli_log_prob
from ..reference import widen
from ..reference.apply import elementwise
from ..reference.series import BERNOULLI_NUMBERS, polynomial
from .base import Likelihood, by_sample, observed, sum_observed

SERIES = tuple(
    4**n * (2 ** (2 * n - 1) - 1) * b / (n * math.factorial(2 * n)) for n, b in enumerate(BERNOULLI_NUMBERS, 1)
)
"""Coefficients of log(h coth h), which is the sum of SERIES[n - 1] h^(2 n) for |h| < pi / 2."""

NEAR_ZERO = 0.25
"""|h| below which ten terms of the series are exact up to float64's rounding; above, the plain formula loses at most
two digits."""


class ContinuousBernoulli(Likelihood):
    """Independent pixels with density C(s) s^x (1 - s)^(1 - x) on [0, 1], s the sigmoid of the decoder's logits
    (N, ...) (Loaiza-Ganem & Cunningham 2019).

    A Bernoulli likelihood of gray levels omits C(s) and is not a density of them. E[x] is not s.
    """

    name = "continuous-bernoulli"
    outputs: tuple[str, ...] = ("logits",)
    support: constraints.Constraint = constraints.unit_interval
    takes_integers = False

    def log_prob(
        self, value: Tensor, output: Any, num_samples: int, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        logits = by_sample("logits", output, num_samples, value)
        unnormalized = bernoulli_log_prob(value.flatten(1), logits, mask, backend=backend)
        (logits,) = observed(mask, *widen(logits))
        return unnormalized + sum_observed(log_normalizer(logits), mask)

    def mean(self, output: Any) -> Tensor:
        """Return E[x | z], between 0 and 1; it is 1 - 1 / l for large logits l.

        It is computed in float64, since its gradient 1 / l^2 - 1 / (4 sinh(l / 2)^2) cancels for l near 1/2.
        """
        logits = output.double()
        return (torch.sigmoid(logits) - _slope(logits)).to(output.dtype)

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        """Draw x by inverting the distribution function."""
        (logits,) = widen(output)
        uniform = torch.rand(logits.shape, generator=generator, dtype=logits.dtype, device=logits.device)
        steep = logits.abs().clamp(min=1e-3)  # for this sign of the logit nothing overflows
        low = torch.log1p(uniform * torch.expm1(-steep)) / -steep
        low = torch.where(logits.abs() < 1e-3, uniform, low)
        return torch.where(logits > 0, 1.0 - low, low).to(output.dtype)

    def initial_biases(self, data_mean: Tensor) -> dict[str, Tensor]:
        """Return the logit of the mean; E[x] is then on the same side of 1/2 as the mean, but nearer to 1/2."""
        return {"logits": torch.logit(data_mean.clamp(0.001, 0.999))}


def log_normalizer(logits: Tensor) -> Tensor:
    """Compute log C(s) per pixel, for s = sigmoid(l): log(l / tanh(l / 2)), which is log 2 at l = 0."""
    return elementwise(_LogNormalizer, logits)


class _LogNormalizer(torch.autograd.Function):
    """The log-normalizer, which saves only the logits, and whose gradient is accurate near l = 0, unlike autograd's."""

    generate_vmap_rule = True

    @staticmethod
    def forward(logits: Tensor) -> Tensor:
        half = 0.5 * logits
        near, far = _split(half)
        square = near.square()
        series = square * polynomial(SERIES, square)
        return math.log(2.0) + torch.where(half.abs() < NEAR_ZERO, series, torch.log(far / torch.tanh(far)))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        (logits,) = ctx.saved_tensors
        return grad * _slope(logits)


def _slope(logits: Tensor) -> Tensor:
    """Compute d log C / dl = 1 / l - 1 / sinh(l) with exponentials that do not overflow, nor do their derivatives."""
    half = 0.5 * logits
    near, far = _split(half)
    slope = tuple(power * coefficient for power, coefficient in zip(range(2, 22, 2), SERIES, strict=True))
    series = near * polynomial(slope, near.square())
    size = 2.0 * far.abs()
    reciprocal_sinh = -2.0 * torch.sign(far) * torch.exp(-size) / torch.expm1(-2.0 * size)
    return 0.5 * torch.where(half.abs() < NEAR_ZERO, series, 1.0 / far - 2.0 * reciprocal_sinh)


def _split(half: Tensor) -> tuple[Tensor, Tensor]:
    """Return h for the series and h for the formula, each with a constant that gives no NaN where it is not used."""
    near = half.abs() < NEAR_ZERO
    return torch.where(near, half, 0.0), torch.where(near, 1.0, half)
