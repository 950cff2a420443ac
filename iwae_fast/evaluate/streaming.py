"""Sums over a stream of log-weights, and the estimate of log p(x) that they give."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import checks
from ..objectives.ranks import Ranks
from .diagnostics import FEWEST_IN_TAIL, pareto_k_of_largest, tail_size


@dataclass(frozen=True)
class LogLikelihood:
    """Importance-sampled log p(x) per observation, and its mean over observations, in nats."""

    value: Tensor
    """log (1/k) sum w_i, (B,) float64."""
    std_error: Tensor
    """The standard error of each value by the delta method, (B,) float64; NaN at k = 1 and where all weights are 0."""
    ess: Tensor
    """The effective sample size of the weights, (B,) float64."""
    pareto_k: Tensor
    """The shape of the weights' tail, (B,) float64: :func:`iwae_fast.diagnostics.pareto_k`. Above 0.7, more samples are
    needed. NaN where it is undefined, such as for k < 21; count these separately."""

    @property
    def mean(self) -> float:
        """The mean over the observations."""
        return self.value.mean().item()

    @property
    def mean_std_error(self) -> float:
        """The standard error of the mean over the observations."""
        return (self.value.std() / math.sqrt(len(self.value))).item()


class StreamingWeights:
    """Sums over a stream of log-weights of B observations, and their largest log-weights.

    Log-weights are added in parts of any size, and the result is that of all of them at once. The memory is that of
    about 3 sqrt(k) + 4 numbers per observation, in float64: sums are kept relative to the largest weight so far, and
    the largest log-weights give k-hat.

    Args:
        num_samples: k, the number of samples per observation in the whole stream. It determines how many of the largest
            log-weights are kept.
        observations: B.
        device: the device of the log-weights.

    Raises:
        TypeError, ValueError: a number is invalid.
    """

    def __init__(self, num_samples: int, observations: int, device: torch.device | str = "cpu") -> None:
        self.num_samples: int = checks.positive("num_samples", num_samples)
        checks.not_negative("observations", observations)
        self.count: int = 0
        self.tail: Tensor = torch.empty((0, observations), dtype=torch.float64, device=device)
        self.tail_size: int = tail_size(num_samples) + 1
        self.largest: Tensor = torch.full((observations,), -math.inf, dtype=torch.float64, device=device)
        self.total: Tensor = torch.zeros_like(self.largest)
        self.total_square: Tensor = torch.zeros_like(self.largest)

    def add(self, log_weights: Tensor) -> None:
        """Add the log-weights of more samples, (n, B) of a floating dtype, in nats.

        Raises:
            TypeError, ValueError: the dtype or shape differs, or there are more than ``num_samples`` samples now.
        """
        checks.floating(log_weights=log_weights)
        if log_weights.dim() != 2 or log_weights.shape[1] != len(self.largest):
            raise ValueError(f"log_weights must be (n, B = {len(self.largest)}), got {tuple(log_weights.shape)}")
        if self.count + len(log_weights) > self.num_samples:
            raise ValueError(
                f"log_weights must bring at most the {self.num_samples - self.count} samples that are left of "
                f"num_samples = {self.num_samples}, got {len(log_weights)}"
            )
        if len(log_weights) == 0:
            return
        log_weights = log_weights.double()
        largest = torch.maximum(self.largest, log_weights.amax(0))
        shift = _finite(largest)
        kept = torch.exp(self.largest - shift)
        weights = torch.exp(log_weights - shift)
        self.total = self.total * kept + weights.sum(0)
        self.total_square = self.total_square * kept.square() + weights.square().sum(0)
        self.largest = largest
        self.count += len(log_weights)
        self._keep_largest([self.tail, log_weights])

    def merge(self, other: StreamingWeights) -> None:
        """Add the samples of another stream of the same observations, as if they had been added to this one.

        Both must have the ``num_samples`` of all samples together, and the device must be the same.

        Raises:
            ValueError: the streams do not belong together.
        """
        for name, own, others in (
            ("num_samples", self.num_samples, other.num_samples),
            ("observations", len(self.largest), len(other.largest)),
        ):
            if own != others:
                raise ValueError(f"the streams must have the same {name}, got {own} and {others}")
        if self.count + other.count > self.num_samples:
            raise ValueError(
                f"the streams must have at most num_samples = {self.num_samples} samples together, got {self.count} "
                f"and {other.count}"
            )
        self.count += other.count
        self._combine(
            torch.stack([self.largest, other.largest]),
            torch.stack([self.total, other.total]),
            torch.stack([self.total_square, other.total_square]),
            [self.tail, other.tail],
        )

    def merge_ranks(self, ranks: Ranks) -> None:
        """Add the samples of the other ranks that divide the samples of these observations."""
        if ranks.num_sample_ranks == 1:
            return
        tail = self.tail.new_full((self.tail_size, len(self.largest)), -math.inf)
        tail[: len(self.tail)] = self.tail
        own = torch.cat([torch.stack([self.largest, self.total, self.total_square]), tail])
        largest, totals, squares, *tails = ranks.gather(own[None], ranks.num_sample_ranks).unbind(1)  # a row per rank
        self.count = self.num_samples
        self._combine(largest, totals, squares, tails)

    def _combine(self, largest: Tensor, totals: Tensor, squares: Tensor, tails: Sequence[Tensor]) -> None:
        """Take the sums of several streams, (n, B) each, and their largest log-weights."""
        self.largest = largest.amax(0)
        scale = torch.exp(largest - _finite(self.largest))
        self.total, self.total_square = (totals * scale).sum(0), (squares * scale.square()).sum(0)
        self._keep_largest(tails)

    def _keep_largest(self, tails: Sequence[Tensor]) -> None:
        candidates = torch.cat(list(tails))
        self.tail = candidates.topk(min(self.tail_size, self.count), dim=0).values

    def log_likelihood(self, pareto_k: Callable[[Tensor], Tensor] = pareto_k_of_largest) -> LogLikelihood:
        """Return the estimate from the samples so far, of which there must be at least one.

        Args:
            pareto_k: the function that computes k-hat from the largest log-weights, in descending order.

        Raises:
            ValueError: no samples have been added.
        """
        k = self.count
        if k == 0:
            raise ValueError("log_likelihood needs at least one sample: add() has not been called")
        size, undefined = tail_size(k), torch.full_like(self.total, math.nan)
        mean_square_ratio = k * self.total_square / self.total.square()
        return LogLikelihood(
            value=self.largest + torch.log(self.total) - math.log(k),
            std_error=((mean_square_ratio - 1.0).clamp(min=0.0) / (k - 1)).sqrt() if k > 1 else undefined,
            ess=torch.where(self.total == 0, 0.0, self.total.square() / self.total_square),
            pareto_k=pareto_k(self.tail[: size + 1]) if size >= FEWEST_IN_TAIL else undefined,
        )


def _finite(largest: Tensor) -> Tensor:
    """Return the numbers to subtract from log-weights before their exponential is taken: the largest ones.

    inf - inf would be NaN. As long as all weights are zero, or one is infinite, any finite number is correct.
    """
    return torch.where(largest.isinf(), 0.0, largest)
