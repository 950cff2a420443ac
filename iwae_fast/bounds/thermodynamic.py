"""The thermodynamic variational objective (Masrani et al. 2019)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..ops.weights import normalized_weights
from .base import Bound, Coefficients, is_zero, stopped_at_zero, widened, without_graph


class TVO(Bound):
    """The left Riemann sum of d log Z / d beta over [0, 1], sum_j (beta_{j+1} - beta_j) sum_i v_i log w_i with
    v = softmax(beta_j log w) (Masrani et al. 2019).

    With d = log w - sum v log w it has g = sum_j (beta_{j+1} - beta_j) v (1 + beta_j d).

    Args:
        partition: beta_0 = 0 < beta_1 < ... < 1; the last interval ends at 1. (0,) is the ELBO.
    """

    def __init__(self, partition: Sequence[float] = (0.0, 0.1)) -> None:
        if isinstance(partition, str) or not all(type(beta) in (int, float) for beta in partition):
            raise ValueError(f"partition must be numbers, got {partition!r}")
        points = tuple(float(beta) for beta in partition)
        if not points or points[0] != 0.0 or not all(a < b for a, b in zip(points, (*points[1:], 1.0), strict=True)):
            raise ValueError(f"partition must rise from 0 and stay below 1, got {partition!r}")
        self.partition = points

    @property
    def partition_of_unit(self) -> tuple[float, ...]:  # type: ignore[override]
        return self.partition

    def __call__(self, log_weights: Tensor) -> Tensor:
        log_weights = stopped_at_zero(widened(log_weights))
        value = torch.zeros_like(log_weights[0])
        for beta, width in self._intervals():
            value = value + width * _expectation(_tempered(beta, log_weights), log_weights)
        return value

    @without_graph
    def coefficients(self, log_weights: Tensor) -> Coefficients:
        widest = widened(log_weights)
        g, D = torch.zeros_like(widest), torch.zeros_like(widest)
        for beta, width in self._intervals():
            v = _tempered(beta, widest)
            if beta == 0.0:
                g += width * v
                continue
            d = torch.where(v == 0, 0.0, widest - _expectation(v, widest))
            g += width * v * (1.0 + beta * d)
            D += width * beta * v * (1.0 + (1.0 - 2.0 * v) * (1.0 + beta * d))
        return Coefficients(self(log_weights), *(part.masked_fill(is_zero(widest), 0.0) for part in (g, D)))

    def _intervals(self) -> list[tuple[float, float]]:
        """Return the start and the width of each interval of the partition."""
        return [(a, b - a) for a, b in zip(self.partition, (*self.partition[1:], 1.0), strict=True)]

    def _settings(self) -> tuple[object, ...]:
        return (self.partition,)


def _tempered(beta: float, log_weights: Tensor) -> Tensor:
    """Compute softmax(beta log w), which is uniform at beta = 0 even where a log-weight is -inf."""
    return normalized_weights(beta * log_weights if beta else torch.zeros_like(log_weights))


def _expectation(v: Tensor, log_weights: Tensor) -> Tensor:
    """Compute sum v log w, (...); a sample with v = 0 contributes 0 even if its log-weight is -inf."""
    return (v * torch.where(v == 0, 0.0, log_weights)).sum(0)
