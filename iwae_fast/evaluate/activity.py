"""Which latent units a model uses: those whose posterior mean follows the observation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..models import LatentVariableModel
from ..models.base import Draw
from ..modes import evaluation_mode
from ..ops.samples import seed_tensor
from .observations import chunks

THRESHOLD = 1e-2
"""Of Burda, Grosse & Salakhutdinov (2016)."""

NUM_SAMPLES = 64
OBSERVATIONS_A_BATCH = 256


@dataclass(frozen=True)
class Activity:
    """The activity of every latent unit, in layers, the one nearest to the data first."""

    variance: tuple[Tensor, ...]
    """Variance over observations of the posterior mean of each unit, (Z_l,) float64 on the CPU for each layer; in the
    square of the unit of z, at least 0."""
    noise: tuple[Tensor, ...]
    """The Monte Carlo noise that has been subtracted from it, (Z_l,) each; zeros for the first layer, whose posterior
    mean the encoder gives exactly."""
    threshold: float

    @property
    def active(self) -> tuple[Tensor, ...]:
        """True for active units, bool (Z_l,) for each layer."""
        return tuple(variance > self.threshold for variance in self.variance)

    @property
    def counts(self) -> tuple[int, ...]:
        """How many units of each layer are active."""
        return tuple(int(active.sum()) for active in self.active)

    @property
    def sizes(self) -> tuple[int, ...]:
        """How many units each layer has, Z_l."""
        return tuple(len(variance) for variance in self.variance)


@torch.no_grad()
def active_units(
    model: LatentVariableModel,
    x: Tensor | Iterable[Any],
    *,
    context: Sequence[Tensor] = (),
    mask: Tensor | None = None,
    num_samples: int = NUM_SAMPLES,
    threshold: float = THRESHOLD,
    seed: int | None = None,
) -> Activity:
    """Count the units u with Var_x(E[u | x]) > threshold (Burda, Grosse & Salakhutdinov 2016, section 5.2).

    Above the first layer E[z_l | x] is the mean over z_{l-1} ~ q(. | x) of the encoder's mean of q(z_l | z_{l-1}). Its
    average over ``num_samples`` draws has noise of its own, which adds E_x[Var(mean | x)] / num_samples to the variance
    over x. That is estimated from the same draws, without bias, and subtracted; what is left of it has a standard
    deviation of about ``noise`` sqrt(2 / B). A difference below 0 becomes 0.

    Args:
        model: one of :mod:`iwae_fast.models`; it runs in evaluation mode.
        x: observations (B, ...), B >= 2, on the device of the model, or a loader of batches, each as for
            :func:`iwae_fast.evaluate.log_likelihood`.
        context: (B, ...) each, what the encoder takes besides.
        mask: bool, True where x is observed, broadcasting to its shape.
        num_samples: draws for each observation, at least 2; without effect on a model with a single layer.
        threshold: a unit is active above it; the paper's is 0.01.
        seed: an int for reproducible draws; drawn from torch's generator if None.

    Raises TypeError or ValueError for arguments of another kind.
    """
    if checks.positive("num_samples", num_samples) < 2:
        raise ValueError(f"num_samples must be at least 2 for a variance over them, got {num_samples}")
    if not threshold >= 0.0:
        raise ValueError(f"threshold must be at least 0, got {threshold}")
    batches = []
    observations = 0
    seeded: Tensor | None = None
    every = chunks(model, x, context, mask, OBSERVATIONS_A_BATCH)
    with evaluation_mode(model):
        for chunk in every:
            observations = chunk.first + len(chunk.x)
            seeded = seed_tensor(seed, chunk.x.device) if seeded is None else seeded
            posterior = model.encode(chunk.x, *chunk.context, mask=chunk.mask)
            draw = Draw(seeded, num_samples, observation_offset=chunk.first)
            batches.append([_mean_and_noise(means) for means in model.layer_means(posterior, draw)])
    if observations < 2:
        raise ValueError(f"x must have at least 2 observations for a variance over them, got {observations}")
    variances, noises = [], []
    for layer in zip(*batches, strict=True):
        means, noise = (torch.cat(parts) for parts in zip(*layer, strict=True))
        noises.append(noise.mean(0))
        variances.append((means.var(0) - noises[-1]).clamp(min=0.0))
    return Activity(tuple(variances), tuple(noises), threshold)


def _mean_and_noise(means: Tensor) -> tuple[Tensor, Tensor]:
    """From the means of k draws, (k, B, Z), their average and its variance, each (B, Z) float64 on the CPU."""
    means = means.double()
    average = means.mean(0)
    noise = torch.zeros_like(average) if len(means) == 1 else means.var(0) / len(means)
    return average.cpu(), noise.cpu()
