"""Bounds from the mean of a power of the weights: ELBO, IWAE, VR-IWAE and CUBO."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..ops.weights import log_mean_exp, normalized_weights
from .base import Bound, Coefficients, Negated, PowerMean, is_zero, stopped_at_zero, widened, without_graph

SMALLEST_POWER = 0.25
"""The smallest power for which log[mean of w^p] / p is as accurate as the log-weights, since the logarithm's rounding
is divided by p."""


class ELBO(Bound):
    """The mean log-weight (Kingma & Welling 2014); g = 1/k, and 0 for a weight of zero; D = 0."""

    one_sample_serves = True
    is_lower_bound = True
    is_mean = True

    def __call__(self, log_weights: Tensor) -> Tensor:
        return stopped_at_zero(widened(log_weights)).mean(0)

    @without_graph
    def coefficients(self, log_weights: Tensor) -> Coefficients:
        value = self(log_weights)
        g = torch.full(log_weights.shape, 1.0 / log_weights.shape[0], dtype=value.dtype, device=value.device)
        return Coefficients(value, g.masked_fill(is_zero(log_weights), 0.0), torch.zeros_like(g))


class IWAE(Bound):
    """log (1/k) sum w_i (Burda, Grosse & Salakhutdinov 2016); g = w~, D = w~ (1 - w~)."""

    is_lower_bound = True
    is_log_mean_exp = True
    power_mean: PowerMean | None = PowerMean(1.0)

    def __call__(self, log_weights: Tensor) -> Tensor:
        one = isinstance(log_weights, Tensor) and log_weights.shape[:1] == (1,)
        if one:  # at k = 1 the bound is the log-weight itself: no kernel to launch
            return stopped_at_zero(widened(log_weights)).squeeze(0)
        return log_mean_exp(log_weights)

    @without_graph
    def coefficients(self, log_weights: Tensor) -> Coefficients:
        weights = normalized_weights(log_weights)
        return Coefficients(self(log_weights), weights, weights * (1.0 - weights))


class VRIWAE(Bound):
    """The Renyi bound log [(1/k) sum w_i^(1 - alpha)] / (1 - alpha) (Li & Turner 2016; Daudel et al. 2023).

    alpha = 0 is IWAE, alpha = 1 the ELBO, and the bound is continuous there. With v = softmax((1 - alpha) log w) it has
    g = v and D = (1 - alpha) v (1 - v). For alpha < 0 it is an upper bound as k grows: the encoder minimizes it, and
    the decoder maximizes IWAE of the same samples.

    Args:
        alpha: any real number.
    """

    def __init__(self, alpha: float) -> None:
        if isinstance(alpha, bool) or not isinstance(alpha, (int, float)) or not math.isfinite(alpha):
            raise ValueError(f"alpha must be a finite number, got {alpha!r}")
        self.alpha: float = float(alpha)

    @property
    def is_lower_bound(self) -> bool:  # type: ignore[override]
        return 0.0 <= self.alpha <= 1.0

    @property
    def power_mean(self) -> PowerMean | None:  # type: ignore[override]
        # Near alpha = 1 this form loses digits; for alpha < 0 the networks ascend different bounds.
        power = 1.0 - self.alpha
        return PowerMean(power) if SMALLEST_POWER <= power <= 1.0 else None

    @property
    def for_decoder(self) -> Bound:
        return self if self.alpha >= 0 else IWAE()

    @property
    def for_encoder(self) -> Bound:
        return self if self.alpha >= 0 else Negated(self)

    def __call__(self, log_weights: Tensor) -> Tensor:
        log_weights = widened(log_weights)
        power = 1.0 - self.alpha
        if power == 0.0:
            return stopped_at_zero(log_weights).mean(0)
        with torch.no_grad():
            spread = log_weights.amax(0) - log_weights.amin(0)
            near = abs(power) * spread < 1.0  # False for NaN and infinite spreads
        # Each formula gets zeros where the other is used: the gradient of the branch not taken must not be NaN.
        infinite = self._infinite(log_weights)
        far = log_mean_exp(power * torch.where(near | infinite, 0.0, log_weights)) / power
        # Near alpha = 1 the argument of the log is near 1, and the formula above loses all significant digits.
        tame = torch.where(near, log_weights, 0.0)
        mean = tame.mean(0)
        close = mean + torch.log1p(torch.expm1(power * (tame - mean)).mean(0)) / power
        return torch.where(infinite, -math.inf, torch.where(near, close, far))

    @without_graph
    def coefficients(self, log_weights: Tensor) -> Coefficients:
        power = 1.0 - self.alpha
        log_weights = widened(log_weights)
        stopped = is_zero(log_weights) | self._infinite(log_weights)
        v = normalized_weights(power * log_weights.masked_fill(stopped, 0.0) if power <= 0.0 else power * log_weights)
        v = v.masked_fill(stopped, 0.0)
        return Coefficients(self(log_weights), v, power * v * (1.0 - v))

    def _infinite(self, log_weights: Tensor) -> Tensor:
        """Return a mask (...) of the columns whose bound is -inf.

        These are columns without a nonzero weight and, for alpha > 1, with any weight of zero: its negative power is
        infinite.
        """
        return is_zero(log_weights).any(0) if self.alpha > 1.0 else is_zero(log_weights.amax(0))

    def _settings(self) -> tuple[object, ...]:
        return (self.alpha,)


class CUBO(VRIWAE):
    """The chi upper bound log [(1/k) sum w_i^n] / n (Dieng et al. 2017): VR at alpha = 1 - n, an upper bound only as k
    grows.

    Args:
        n: a number above 1; 2 is the chi-square bound.
    """

    def __init__(self, n: float = 2.0) -> None:
        if isinstance(n, bool) or not isinstance(n, (int, float)) or not 1.0 < n < math.inf:
            raise ValueError(f"n must be a number above 1, got {n!r}")
        super().__init__(1.0 - n)
        self.n: float = float(n)

    def _settings(self) -> tuple[object, ...]:
        return (self.n,)
