"""Levels of pixels with a logistic distribution that is rounded to them."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.distributions import constraints

from .. import checks
from ..checks import accumulation_dtype
from .base import Likelihood, observed, parts_by_sample, parts_of, sum_observed
from .bounded import bounded, checked_bounds

LOG_SCALE_LIMIT = 300.0
"""The largest size of log_scale; beyond it nothing changes, and its gradient is 0."""


class DiscretizedLogistic(Likelihood):
    """Independent levels 0, ..., L - 1 with the probability of a logistic variable that is rounded to the nearest one.

    Kingma, Salimans, Jozefowicz, Chen, Sutskever & Welling (2016), "Improved variational inference with inverse
    autoregressive flow". The decoder returns (mean, log_scale), each (N, ...), in units in which the levels are 0, 1 /
    (L - 1), ..., 1. The lowest and the highest level get the tails. Levels may have any floating or integer dtype.
    Computation is in float64, in a form that neither cancels nor underflows.

    Args:
        num_levels: L; the name "discretized-logistic" stands for the 256 levels of an 8-bit pixel.
        log_std_bounds: bounds (low, high) of log_scale, as for :class:`iwae_fast.likelihoods.Gaussian`.
    """

    name = "discretized-logistic"
    outputs: tuple[str, ...] = ("mean", "log_scale")

    def __init__(self, num_levels: int = 256, log_std_bounds: tuple[float, float] | None = None) -> None:
        super().__init__()
        if checks.positive("num_levels", num_levels) < 2:
            raise ValueError(f"num_levels must be at least 2, got {num_levels}")
        self.num_levels = num_levels
        self.log_std_bounds: tuple[float, float] | None = checked_bounds(log_std_bounds)
        self.support: constraints.Constraint = constraints.integer_interval(0, num_levels - 1)

    def log_prob(
        self, value: Tensor, output: Any, num_samples: int, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        mean, log_scale = parts_by_sample(self, output, num_samples, value)
        flat = value.flatten(1)
        dtype = accumulation_dtype(flat, mean, log_scale)
        level, mean, log_scale = observed(mask, flat, mean, bounded(log_scale, self.log_std_bounds))
        return sum_observed(self._log_prob(level.double(), mean.double(), log_scale.double()), mask).to(dtype)

    def _log_prob(self, level: Tensor, mean: Tensor, log_scale: Tensor) -> Tensor:
        """Return log(sigmoid(u) - sigmoid(v)) = log sigmoid(u) + log sigmoid(-v) + log(1 - e^(v - u)) per level, with u
        and v the ends of its interval."""
        # A clamp would hide NaN from the gradient.
        limited = log_scale.detach().clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT)
        log_scale = torch.where(log_scale.abs() > LOG_SCALE_LIMIT, limited, log_scale)
        steps = self.num_levels - 1
        inverse = torch.exp(-log_scale)
        above = ((level + 0.5) / steps - mean) * inverse
        below = ((level - 0.5) / steps - mean) * inverse
        log_width = -math.log(steps) - log_scale  # log(u - v)
        width = torch.exp(log_width)
        small = width < 1e-5
        inside = torch.log(-torch.expm1(-torch.where(small, 1.0, width)))
        inside = torch.where(small, log_width - 0.5 * width, inside)
        lowest, highest = level <= 0, level >= steps
        found = torch.where(highest, 0.0, F.logsigmoid(above)) + torch.where(lowest, 0.0, F.logsigmoid(-below))
        return found + torch.where(lowest | highest, 0.0, inside)

    def mean(self, output: Any) -> Tensor:
        """Return the mean level: the sum of the probabilities of reaching each level above 0."""
        mean, log_scale = parts_of(output, self)
        inverse = torch.exp(-bounded(log_scale, self.log_std_bounds).clamp(-LOG_SCALE_LIMIT, LOG_SCALE_LIMIT).double())
        center, steps = mean.double(), self.num_levels - 1
        total = torch.zeros_like(center)
        for level in range(1, self.num_levels):
            total = total + torch.sigmoid((center - (level - 0.5) / steps) * inverse)
        return total.to(mean.dtype)

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        """Draw levels by inverting the distribution function, in the dtype of the decoder's output."""
        mean, log_scale = parts_of(output, self)
        uniform = torch.rand(mean.shape, generator=generator, dtype=torch.float64, device=mean.device)
        scale = torch.exp(bounded(log_scale, self.log_std_bounds).double())
        drawn = (mean.double() + scale * torch.logit(uniform)) * (self.num_levels - 1)
        return drawn.round().clamp(0, self.num_levels - 1).to(mean.dtype)

    def initial_biases(self, data_mean: Tensor) -> dict[str, Tensor]:
        """Return the bias of the center, and of a scale of a twentieth of the range."""
        return {
            "mean": data_mean / (self.num_levels - 1),
            "log_scale": torch.full_like(data_mean, math.log(0.05)),
        }

    def encoder_input(self, x: Tensor) -> Tensor:
        """Scale levels to 0 to 1."""
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        return x / (self.num_levels - 1)

    def extra_repr(self) -> str:
        return f"num_levels={self.num_levels}, log_std_bounds={self.log_std_bounds}"
