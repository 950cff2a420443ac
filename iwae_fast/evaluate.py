"""Streaming estimates of the marginal log-likelihood, in memory that does not grow with the number of samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from . import checks
from .diagnostics import FEWEST_IN_TAIL, pareto_k_of_largest, tail_size
from .heap import keep_large_blocks
from .journal import FIELDS, Journal, digest
from .models import LatentVariableModel
from .models.base import observed_features
from .modes import evaluation_mode

ROWS_A_CHUNK = 4096
"""Decoder rows (samples times observations) evaluated at once by default: large matrix products, warm caches."""

SAMPLES_TAKEN_IN = 1024
"""Log-weights of each observation that are collected before they are summed: finding the largest takes its time."""

OBSERVATIONS_A_CHUNK = 256


@dataclass(frozen=True)
class LogLikelihood:
    """Importance-sampled log p(x) of each observation, and its mean over observations, in nats."""

    value: Tensor
    """log (1/k) sum w_i, (B,) float64."""
    std_error: Tensor
    """Standard error of each value by the delta method, (B,) float64; NaN at k = 1 and where all weights are 0."""
    ess: Tensor
    """Effective sample size of the weights, (B,) float64."""
    pareto_k: Tensor
    """Shape of the weights' tail, (B,) float64: :func:`iwae_fast.diagnostics.pareto_k`. Above 0.7, more samples than
    these are needed; NaN for k < 21."""

    @property
    def mean(self) -> float:
        """Mean over the observations."""
        return self.value.mean().item()

    @property
    def mean_std_error(self) -> float:
        """Standard error of the mean over the observations."""
        return (self.value.std() / math.sqrt(len(self.value))).item()


class StreamingWeights:
    """Sums over a stream of log-weights, kept relative to the largest so far, and the largest ones themselves; exact at
    any split of the stream.

    ``num_samples`` is how many there will be in all: it says how long the tail is.
    """

    def __init__(self, num_samples: int, observations: int, device: torch.device) -> None:
        self.count = 0
        self.tail = torch.empty((0, observations), dtype=torch.float64, device=device)
        self.tail_size = tail_size(num_samples) + 1
        self.largest = torch.full((observations,), -math.inf, dtype=torch.float64, device=device)
        self.total = torch.zeros_like(self.largest)
        self.total_square = torch.zeros_like(self.largest)

    def add(self, log_weights: Tensor) -> None:
        """Take in more samples, (k, B)."""
        log_weights = log_weights.double()
        largest = torch.maximum(self.largest, log_weights.amax(0))
        # inf - inf would be NaN: while all weights are zero, or one is infinite, any finite shift serves.
        shift = torch.where(largest.isinf(), 0.0, largest)
        kept = torch.exp(self.largest - shift)
        weights = torch.exp(log_weights - shift)
        self.total = self.total * kept + weights.sum(0)
        self.total_square = self.total_square * kept.square() + weights.square().sum(0)
        self.largest = largest
        self.count += len(log_weights)
        candidates = torch.cat([self.tail, log_weights])
        self.tail = candidates.topk(min(self.tail_size, len(candidates)), dim=0).values

    def log_likelihood(self) -> LogLikelihood:
        k = self.count
        mean_square_ratio = k * self.total_square / self.total.square()
        return LogLikelihood(
            value=self.largest + torch.log(self.total) - math.log(k),
            std_error=((mean_square_ratio - 1.0).clamp(min=0.0) / (k - 1)).sqrt()
            if k > 1
            else torch.full_like(self.total, math.nan),
            ess=torch.where(self.total == 0, 0.0, self.total.square() / self.total_square),
            pareto_k=pareto_k_of_largest(self.tail)
            if self.tail_size > FEWEST_IN_TAIL
            else torch.full_like(self.total, math.nan),
        )


@torch.no_grad()
def log_likelihood(
    model: LatentVariableModel,
    x: Tensor,
    num_samples: int = 5000,
    chunk_size: int | None = None,
    seed: int | None = None,
    *,
    context: Sequence[Tensor] = (),
    mask: Tensor | None = None,
    progress: Callable[[int], None] | None = None,
    journal: str | Path | None = None,
) -> LogLikelihood:
    """Importance-sampled log p(x), the IWAE bound with many samples (Burda, Grosse & Salakhutdinov 2016).

    The model runs in evaluation mode. Memory depends on ``chunk_size``, not on ``num_samples``, and noise is a
    function of (seed, sample, observation), so the chunk size changes the result by rounding only.

    Args:
        model: one of :mod:`iwae_fast.models`.
        x: observations (B, ...), on the device of the model. ValueError where they are outside the likelihood's
            support, such as pixels from 0 to 255 for "bernoulli".
        num_samples: k >= 1; the papers use 5000.
        chunk_size: samples of each observation evaluated at once; chosen for the caches if None.
        seed: an int for reproducible noise; drawn from torch's generator if None.
        context: (B, ...) each, what encoder and decoder take besides: log p(x | context).
        mask: bool, True where x is observed, broadcasting to its shape: log p(x_observed).
        progress: called with the number of (sample, observation) pairs just evaluated.
        journal: an .npz in which finished observations are kept, 256 at a time: called again with the same file, an
            evaluation that was interrupted goes on where it stopped, and ends with the same bits. ValueError where the
            file is of another model, other data, or another k or seed.

    Returns:
        :class:`LogLikelihood`, per observation.
    """
    checks.floating(x=x)
    checks.positive("num_samples", num_samples)
    if chunk_size is not None:
        checks.positive("chunk_size", chunk_size)
    checks.context(context, len(x))
    if mask is not None:
        mask = observed_features(mask, x)
    model.likelihood.check_support(x, mask)
    kept = None if journal is None else Journal(Path(journal), digest(model, num_samples, (x, *context, mask)))
    parts = []
    done = 0
    if kept is not None and len(kept):
        if seed not in (None, kept.seed):
            raise ValueError(f"{journal} is of an evaluation with seed {kept.seed}, not {seed}")
        seed, done = kept.seed, len(kept)
        parts.append(LogLikelihood(*torch.from_numpy(kept.results).to(x.device)))
        if progress is not None:
            progress(done * num_samples)
    if seed is None:
        seed = int(torch.randint(2**63 - 1, (), device="cpu"))
    keep_large_blocks()
    with evaluation_mode(model):
        for first in range(done, max(len(x), 1), OBSERVATIONS_A_CHUNK):
            chunk = slice(first, first + OBSERVATIONS_A_CHUNK)
            part = _observations(
                model,
                x[chunk],
                num_samples,
                chunk_size,
                seed,
                first,
                tuple(c[chunk] for c in context),
                None if mask is None else mask[chunk],
                progress,
            )
            parts.append(part)
            if kept is not None:
                kept.add(seed, (getattr(part, name) for name in FIELDS))
    return LogLikelihood(*(torch.cat([getattr(part, name) for part in parts]) for name in FIELDS))


def _observations(
    model: LatentVariableModel,
    x: Tensor,
    num_samples: int,
    chunk_size: int | None,
    seed: int,
    observation_offset: int,
    context: Sequence[Tensor],
    mask: Tensor | None,
    progress: Callable[[int], None] | None,
) -> LogLikelihood:
    chunk_size = chunk_size or max(1, ROWS_A_CHUNK // max(1, len(x)))
    posterior = model.encode(x, *context, mask=mask)
    weights = StreamingWeights(num_samples, len(x), x.device)
    waiting: list[Tensor] = []
    for start in range(0, num_samples, chunk_size):
        count = min(chunk_size, num_samples - start)
        waiting.append(
            model.log_weights(
                x,
                count,
                seed,
                context=context,
                mask=mask,
                posterior=posterior,
                sample_offset=start,
                observation_offset=observation_offset,
            )
        )
        if len(waiting) * chunk_size >= SAMPLES_TAKEN_IN or start + count == num_samples:
            weights.add(torch.cat(waiting))
            waiting.clear()
        if progress is not None:
            progress(count * len(x))
    return weights.log_likelihood()
