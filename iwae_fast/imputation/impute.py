"""Imputation of missing features by self-normalized importance sampling."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .. import checks
from ..backends.heap import return_free_memory
from ..evaluate.rows import device_rows
from ..evaluate.streaming import LogLikelihood, StreamingWeights
from ..models import LatentVariableModel
from ..models.base import RESAMPLING_STREAM, check_model
from ..models.draw import Draw
from ..models.encoding import observed_features
from ..modes import evaluation_mode
from ..ops.samples import seed_number, seed_tensor
from ..seeds import number_of
from .median import weighted_median
from .streaming import Resampler, StreamingAverages

OBSERVATIONS_A_BLOCK = 256

NUMBERS_FOR_A_MEDIAN = 1 << 22
"""The most drawn numbers that a median keeps at once, unless one observation has more. Sorting takes five times their
memory."""


@dataclass(frozen=True)
class Imputation:
    """Observations whose missing features are imputed, and the quality of the importance weights."""

    mean: Tensor
    """x with E[x_missing | x_observed] in its missing features, (B, ...) of a floating dtype. A column of classes of
    :class:`iwae_fast.likelihoods.Mixed` has the class of the highest probability."""
    median: Tensor | None
    """x with the median of each missing feature given x_observed, (B, ...); None unless it was asked for. Columns of
    classes are as in ``mean``."""
    draws: Tensor | None
    """m copies of x with draws from p(x_missing | x_observed), (m, B, ...), for multiple imputation; None if m = 0."""
    log_likelihood: LogLikelihood
    """The estimate of log p(x_observed) from the same samples. Its ``ess`` and ``pareto_k`` are those of the weights:
    where k-hat is above 0.7, more samples are needed."""


def impute(
    model: LatentVariableModel,
    x: Tensor,
    mask: Tensor | None = None,
    num_samples: int = 1000,
    *,
    num_draws: int = 0,
    median: bool = False,
    context: Sequence[Tensor] = (),
    seed: int | Tensor | None = None,
    chunk_size: int | None = None,
    observation_offset: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Imputation:
    """Impute missing features by self-normalized importance sampling, with q(z | x_observed) as the proposal.

    The mean is sum_i w_i E[x | z_i] / sum_i w_i, and a draw is one of p(x | z_i) for an i that is chosen with
    probability proportional to w_i (Mattei & Frellsen 2019, "MIWAE: deep generative modelling and imputation of
    incomplete data sets"). The model runs in evaluation mode, without gradients. Noise is a function of (seed, sample,
    observation), so the chunk size changes the mean by rounding only. Memory depends on the chunk size and not on
    ``num_samples``, except for medians, which keep the draws of at least one observation.

    Args:
        model: one of :mod:`iwae_fast.models`, trained with a mask (``objective(model, x, mask=mask)``) or without.
        x: observations (B, ...). Missing features may have any value, NaN included.
        mask: bool, True where x is observed, broadcasting to its shape. If None, NaN is missing.
        num_samples: k >= 1, the number of importance samples per observation.
        num_draws: m >= 0, the number of imputations drawn per observation.
        median: if True, compute medians as well, from one draw of x per sample.
        context: further inputs of the model, (B, ...) each.
        seed: an int, or an int64 scalar tensor, for reproducible noise; drawn from torch's generator if None.
        chunk_size: samples per observation evaluated at once; chosen automatically if None.
        observation_offset: the index of the first observation for the noise. With blocks of 256 observations, or
            multiples, and their offsets, a loop over a data set gives the results of one call.
        progress: called with the number of (sample, observation) pairs just evaluated.

    Returns:
        An :class:`Imputation`. Observed features are those of ``x``.

    Raises:
        TypeError, ValueError: an argument is invalid, or observed features are outside the likelihood's support.
    """
    check_model(model)
    for name, value in (("num_draws", num_draws), ("observation_offset", observation_offset)):
        checks.not_negative(name, value)
    checks.positive("num_samples", num_samples)
    if chunk_size is not None:
        checks.positive("chunk_size", chunk_size)
    model.check_batch(x, context)
    observed = ~x.isnan() if mask is None else observed_features(mask, x)
    model.likelihood.check_support(x, observed)
    number = seed_number(seed)
    rows = OBSERVATIONS_A_BLOCK
    if median:
        rows = max(1, min(rows, NUMBERS_FOR_A_MEDIAN // (num_samples * max(1, x.shape[1:].numel()))))
    parts = []
    with torch.no_grad(), evaluation_mode(model):
        for first in range(0, max(len(x), 1), rows):
            part = slice(first, first + rows)
            block = _Block(
                model, x[part], observed[part], [c[part] for c in context], observation_offset + first, number
            )
            parts.append(block.imputed(num_samples, num_draws, median, chunk_size, progress))
    return _joined(parts)


class _Block:
    """Observations that are imputed together."""

    def __init__(
        self,
        model: LatentVariableModel,
        x: Tensor,
        observed: Tensor,
        context: Sequence[Tensor],
        first: int,
        seed: int,
    ) -> None:
        self.model = model
        self.x = x
        self.observed = observed
        self.context = context
        self.first = first
        self.seed = seed
        self.posterior = model.encode(x, context=context, mask=observed)

    def imputed(
        self,
        num_samples: int,
        num_draws: int,
        median: bool,
        chunk_size: int | None,
        progress: Callable[[int], None] | None,
    ) -> Imputation:
        model, x, count = self.model, self.x, len(self.x)
        step = chunk_size or max(1, device_rows(model, x) // max(1, count))
        key = seed_tensor(self.seed, x.device)
        weights = StreamingWeights(num_samples, count, x.device)
        resampler = Resampler(num_draws, count, x.device) if num_draws else None
        averages = StreamingAverages(count, x.device)
        log_weights, drawn = [], []
        for start in range(0, num_samples, step):
            draw = Draw(key, min(step, num_samples - start), start, self.first)
            found = model.completions(x, self.posterior, draw, context=self.context, mask=self.observed)
            weights.add(found.log_weights)
            averages.add(found.log_weights, found.expectations)
            if resampler is not None:
                noise = draw.noise(
                    (count, num_draws),
                    dtype=torch.float64,
                    device=x.device,
                    stream=RESAMPLING_STREAM,
                    backend=model.backend,
                )
                resampler.add(found.log_weights, noise, found.particles)
            if median:
                log_weights.append(found.log_weights)
                drawn += [
                    self._completed(found.particles[i : i + 1], 0, start + i) for i in range(len(found.particles))
                ]
            if progress is not None:
                progress(draw.num_samples * count)
            return_free_memory(x.device)
        mean = model.likelihood.imputed(averages.averages())
        middle = None
        if median:
            middle = weighted_median(torch.cat(drawn), torch.cat(log_weights))
            unordered = model.likelihood.unordered
            middle = middle if unordered is None else torch.where(unordered, mean.to(middle.dtype), middle)
        draws = None if resampler is None else self._completed(resampler.particles, 1)
        return Imputation(
            self._filled(mean),
            None if middle is None else self._filled(middle),
            None if draws is None else self._filled(draws),
            weights.log_likelihood(),
        )

    def _completed(self, particles: Tensor, *indices: int) -> Tensor:
        """Draw x, (n, B, D), with noise that depends on the block and on further indices."""
        generator = torch.Generator(self.x.device).manual_seed(number_of(self.seed, self.first, *indices))
        return self.model.completed(particles, generator, self.context)

    def _filled(self, found: Tensor) -> Tensor:
        """Return x with numbers (..., B, D) in place of its missing features."""
        dtype = self.x.dtype if self.x.is_floating_point() else torch.get_default_dtype()
        shape = found.shape[:-1] + self.x.shape[1:]
        return torch.where(self.observed, self.x.to(dtype), found.reshape(shape).to(dtype))


def _joined(parts: list[Imputation]) -> Imputation:
    def joined(tensors: list[Tensor | None], dim: int = 0) -> Tensor | None:
        return None if tensors[0] is None else torch.cat(tensors, dim)  # type: ignore[arg-type]

    fields = ("value", "std_error", "ess", "pareto_k")
    likelihood = [torch.cat([getattr(part.log_likelihood, name) for part in parts]) for name in fields]
    return Imputation(
        torch.cat([part.mean for part in parts]),
        joined([part.median for part in parts]),
        joined([part.draws for part in parts], 1),
        LogLikelihood(*likelihood),
    )
