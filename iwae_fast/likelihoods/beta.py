"""Fractions between 0 and 1."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from ..checks import accumulation_dtype
from .base import Likelihood, elementwise, observed, parts_by_sample, parts_of, sum_observed
from .negative_binomial import scaled
from .series import HALF_LOG_2PI, digamma_remainder, log_gamma_remainder, scaled_deviation

LOG_LIMIT = 80.0
"""Largest size of log_concentration; beyond it nothing changes, and its gradient is 0."""


class Beta(Likelihood):
    """Independent fractions with a beta distribution; the decoder returns (logits, log_concentration), each (N, ...).

    The mean is m = sigmoid(logits), and with c = exp(log_concentration) the parameters are a = m c and b = (1 - m) c;
    torch.distributions calls them ``concentration1`` and ``concentration0``. The variance is m (1 - m) / (1 + c).
    Computation is in float64, in a form that does not cancel.

    The density at 0 and 1 is 0 or infinite. Fractions nearer to an end than ``margin`` are therefore moved to it, also
    where they are exactly 0 or 1.

    Args:
        margin: the least distance from 0 and 1, above 0 and below 1/2.
    """

    name = "beta"
    outputs: tuple[str, ...] = ("logits", "log_concentration")
    support: constraints.Constraint = constraints.unit_interval
    takes_integers = False

    def __init__(self, margin: float = 1e-6) -> None:
        super().__init__()
        if not 0.0 < margin < 0.5:
            raise ValueError(f"margin must be above 0 and below 1/2, got {margin!r}")
        self.margin = margin

    def log_prob(
        self, value: Tensor, output: Any, num_samples: int, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        parts = parts_by_sample(self, output, num_samples, value)
        flat = value.flatten(1)
        dtype = accumulation_dtype(flat, *parts)
        x, logits, log_concentration = observed(mask, flat, *parts)
        inside = x.double().clamp(self.margin, 1.0 - self.margin)
        return sum_observed(beta_log_prob(inside, logits, log_concentration), mask).to(dtype)

    def mean(self, output: Any) -> Tensor:
        return torch.sigmoid(parts_of(output, self)[0])

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        """Draw from the ratio of two Gamma variables."""
        logits, log_concentration = parts_of(output, self)
        # Beyond these limits a Gamma variable with mean 1 rounds to 1, or is almost always 0.
        concentration = torch.exp(log_concentration.double().clamp(-30.0, LOG_LIMIT))
        first, second = (
            torch._standard_gamma((torch.sigmoid(s) * concentration).clamp(min=1e-300), generator=generator)
            for s in (logits.double(), -logits.double())
        )
        total = first + second
        drawn = torch.where(total > 0, first / total, torch.sigmoid(logits.double()).round())
        return drawn.to(logits.dtype)

    def initial_biases(self, data_mean: Tensor) -> dict[str, Tensor]:
        return {"logits": torch.logit(data_mean.clamp(0.001, 0.999))}

    def extra_repr(self) -> str:
        return f"margin={self.margin}"


def beta_log_prob(value: Tensor, logits: Tensor, log_concentration: Tensor) -> Tensor:
    """Compute the log-density of a beta distribution per fraction strictly between 0 and 1, float64.

    With n = a + b it is minus n KL(m || x), the deviance, plus terms of log x, log(1 - x), a, b and n, plus the
    remainders of Stirling's formula, which are small.
    """
    return elementwise(_Beta, value, logits, log_concentration)


def _parts(logits: Tensor, log_concentration: Tensor) -> tuple[Tensor, ...]:
    """Return log m, log(1 - m), log n, log a and log b."""
    logits = logits.double()
    log_n = log_concentration.double().clamp(-LOG_LIMIT, LOG_LIMIT)
    log_m, log_rest = F.logsigmoid(logits), F.logsigmoid(-logits)
    return log_m, log_rest, log_n, log_m + log_n, log_rest + log_n


def _deviance(x: Tensor, log_m: Tensor, log_rest: Tensor, log_n: Tensor) -> Tensor:
    """Return n KL(m || x) = a (u - log(1 + u)) + b (v - log(1 + v)), with 1 + u = x / m and 1 + v = (1 - x) / (1 - m).

    m and 1 - m may underflow.
    """
    m, rest, n = torch.exp(log_m), torch.exp(log_rest), torch.exp(log_n)
    difference = torch.where(m < 0.5, x - m, rest - (1.0 - x))
    up, down = difference / m, -difference / rest
    log_up, log_down = torch.log(x) - log_m, torch.log1p(-x) - log_rest
    change = n * difference
    return scaled_deviation(m * n, change, up, log_up) + scaled_deviation(rest * n, -change, down, log_down)


class _Beta(torch.autograd.Function):
    """The log-density, which saves only its arguments for the backward pass."""

    generate_vmap_rule = True

    @staticmethod
    def forward(value: Tensor, logits: Tensor, log_concentration: Tensor) -> Tensor:
        x = value.double()
        log_m, log_rest, log_n, log_a, log_b = _parts(logits, log_concentration)
        remainders = (
            log_gamma_remainder(torch.exp(log_n), log_n)
            - log_gamma_remainder(torch.exp(log_a), log_a)
            - log_gamma_remainder(torch.exp(log_b), log_b)
        )
        scale = 0.5 * (log_a + log_b - log_n) - HALF_LOG_2PI
        return scale + remainders - torch.log(x) - torch.log1p(-x) - _deviance(x, log_m, log_rest, log_n)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        arguments = ctx.saved_tensors
        return tuple(
            scaled(grad, slope).sum_to_size(argument.shape).to(argument.dtype) if needed else None
            for argument, slope, needed in zip(arguments, _slopes(*arguments), ctx.needs_input_grad, strict=True)
        )


def _slopes(value: Tensor, logits: Tensor, log_concentration: Tensor) -> tuple[Tensor, ...]:
    """Return the derivatives with respect to x, the logits and log_concentration."""
    x = value.double()
    log_m, log_rest, log_n, log_a, log_b = _parts(logits, log_concentration)
    m, rest, n, a, b = (torch.exp(log) for log in (log_m, log_rest, log_n, log_a, log_b))
    of_n, of_a, of_b = (0.5 + digamma_remainder(z) for z in (n, a, b))
    log_x, log_other = torch.log(x), torch.log1p(-x)
    odds = (log_x - log_m) - (log_other - log_rest)
    by_logits = a * rest * odds + rest * of_a - m * of_b
    by_n = of_a + of_b - of_n - _deviance(x, log_m, log_rest, log_n)
    by_n = torch.where(log_concentration.double().abs() > LOG_LIMIT, 0.0, by_n)
    return (a - 1.0) / x - (b - 1.0) / (1.0 - x), by_logits, by_n
