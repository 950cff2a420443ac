"""SUMO: a random number of samples, weighted so that the mean is log p(x) itself (Luo et al. 2020)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks
from .base import Bound, Coefficients, widened, without_graph


class SUMO(Bound):
    """The unbiased estimator L_1 + sum_{j=1..T} (L_{j+1} - L_j) / P(T >= j) of log p(x), with L_j the IWAE bound of the
    first j samples and a random T (Luo, Beatson, Norouzi, Zhu, Duvenaud, Adams & Chen 2020).

    P(T >= j) = 1 / j up to j = tail, and each further j multiplies it by 0.9: about six samples on average. If T is not
    limited by k, the mean over T and the samples is log p(x) for any encoder. The encoder therefore minimizes SUMO^2,
    whose mean depends on it. If T is limited to k - 1, the mean is that of L_k, and an encoder that minimizes the
    square also lowers L_k where L_k is positive: use k well above 10.

    Called on log-weights (k, ...), it draws one T from torch's generator. An :class:`iwae_fast.Objective` derives T
    from its seed at each call and takes T + 1 samples, at most ``num_samples``.

    Args:
        tail: the j from which P(T >= j) falls geometrically, at least 1.
    """

    def __init__(self, tail: int = 80) -> None:
        self.tail: int = checks.positive("tail", tail)

    @property
    def for_encoder(self) -> Bound:
        return MinusSquare(self)

    def for_call(self, num_samples: int, seed: int | Tensor | None) -> tuple[Bound, int]:
        """Draw T and return SUMO at this T, and T + 1; a seed that is a tensor on a device forces a synchronization."""
        generator = None if seed is None else torch.Generator().manual_seed(int(seed))
        truncation = min(
            self.truncation(torch.rand((), dtype=torch.float64, generator=generator).item()), num_samples - 1
        )
        return TruncatedSUMO(self, truncation), truncation + 1

    def survival(self, j: int) -> float:
        """Return P(T >= j), j >= 1."""
        return 1.0 / j if j <= self.tail else 0.9 ** (j - self.tail) / self.tail

    def truncation(self, uniform: float) -> int:
        """Return the largest T with P(T >= j) not below a uniform number, at least 1."""
        uniform = max(uniform, 2.0**-53)
        if uniform >= 1.0 / self.tail:
            return int(1.0 / uniform)
        return self.tail + int(math.log(uniform * self.tail) / math.log(0.9))

    def __call__(self, log_weights: Tensor) -> Tensor:
        bound, k = self.for_call(len(widened(log_weights)), None)
        return bound(log_weights[:k])

    def coefficients(self, log_weights: Tensor) -> Coefficients:
        bound, k = self.for_call(len(widened(log_weights)), None)
        parts = bound.coefficients(log_weights[:k])
        unused = torch.zeros_like(log_weights[k:], dtype=parts.g.dtype)
        return Coefficients(parts.value, torch.cat([parts.g, unused]), torch.cat([parts.D, unused]))

    def _settings(self) -> tuple[object, ...]:
        return (self.tail,)


class TruncatedSUMO(Bound):
    """SUMO at fixed T = k - 1, for log-weights (k, ...).

    Summed by parts it is sum_j c_j L_j, with c_j = 1 / P(T >= j - 1) - 1 / P(T >= j) for j <= T, and 1 / P(T >= T) at
    j = k.
    """

    def __init__(self, roulette: SUMO, truncation: int) -> None:
        self.roulette = roulette
        self.truncation = truncation

    @property
    def for_encoder(self) -> Bound:
        return MinusSquare(self)

    def __call__(self, log_weights: Tensor) -> Tensor:
        value, g, _ = self.coefficients(log_weights)
        log_weights = torch.where(g == 0, 0.0, self._checked(log_weights))
        # By the known g: autograd through the nested sums would give NaN at -inf.
        return value + (g * (log_weights - log_weights.detach())).sum(0)

    @without_graph
    def coefficients(self, log_weights: Tensor) -> Coefficients:
        dtype = self._checked(log_weights).dtype
        log_weights = self._checked(log_weights).double()  # the coefficients, of size 1 / P(T >= j), cancel
        k, parts = len(log_weights), self._parts(log_weights)
        totals = torch.logcumsumexp(log_weights, 0)
        counts = torch.arange(1, k + 1, dtype=log_weights.dtype, device=log_weights.device).reshape(parts.shape)
        terms = torch.where(parts == 0, 0.0, parts * (totals - torch.log(counts)))
        value = torch.where(totals[-1] == -math.inf, -math.inf, terms.sum(0))
        # The normalized weight of sample i among the first j, for i <= j.
        weights = torch.exp(log_weights[None] - torch.where(totals == -math.inf, 0.0, totals)[:, None])
        among = torch.ones(k, k, dtype=torch.bool, device=weights.device).tril().reshape(k, *parts.shape)
        weights = torch.where(among, weights, 0.0)
        g = (parts[:, None] * weights).sum(0)
        D = (parts[:, None] * weights * (1.0 - weights)).sum(0)
        return Coefficients(value.to(dtype), g.to(dtype), D.to(dtype))

    def _checked(self, log_weights: Tensor) -> Tensor:
        log_weights = widened(log_weights)
        if len(log_weights) != self.truncation + 1:
            raise ValueError(
                f"SUMO at T = {self.truncation} needs {self.truncation + 1} samples, got {len(log_weights)}"
            )
        return log_weights

    def _parts(self, log_weights: Tensor) -> Tensor:
        inverse = [1.0, *(1.0 / self.roulette.survival(j) for j in range(1, self.truncation + 1))]
        parts = [a - b for a, b in zip(inverse, (*inverse[1:], 0.0), strict=True)]
        return log_weights.new_tensor(parts).reshape(-1, *(1,) * (log_weights.dim() - 1))

    def _settings(self) -> tuple[object, ...]:
        return (self.roulette, self.truncation)


class MinusSquare(Bound):
    """The bound -F^2, with zero gradient where F is infinite."""

    def __init__(self, bound: Bound) -> None:
        self.bound = bound

    def __call__(self, log_weights: Tensor) -> Tensor:
        value = self.bound(log_weights)
        return torch.where(value.isinf(), -math.inf, -value.masked_fill(value.isinf(), 0.0).square())

    def coefficients(self, log_weights: Tensor) -> Coefficients:
        value, g, D = self.bound.coefficients(log_weights)
        finite = value.masked_fill(value.isinf(), 0.0)
        g, D = -2.0 * finite * g, -2.0 * (g.square() + finite * D)
        return Coefficients(-value.square(), g, D.masked_fill(value.isinf(), 0.0))

    def _settings(self) -> tuple[object, ...]:
        return (self.bound,)
