"""Active latent units: those whose posterior mean varies with the observation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .. import checks
from ..models import LatentVariableModel
from ..models.draw import Draw
from ..modes import evaluation_mode
from ..ops.samples import seed_tensor
from .observations import chunks
from .sources import ModelSource

THRESHOLD = 1e-2
"""The threshold of Burda, Grosse & Salakhutdinov (2016)."""

NUM_SAMPLES = 64
OBSERVATIONS_A_BATCH = 256


@dataclass(frozen=True)
class Activity:
    """The activity of every latent unit, per layer; the layer nearest to the data comes first."""

    variance: tuple[Tensor, ...]
    """The variance over observations of each unit's posterior mean, (Z_l,) float64 on the CPU per layer; in squared
    units of z, at least 0."""
    noise: tuple[Tensor, ...]
    """The Monte Carlo noise that has been subtracted from the variance, (Z_l,) per layer; zeros for the first layer,
    whose posterior mean the encoder returns exactly."""
    threshold: float
    """The variance above which a unit is active."""

    @property
    def active(self) -> tuple[Tensor, ...]:
        """True for active units, bool (Z_l,) for each layer."""
        return tuple(variance > self.threshold for variance in self.variance)

    @property
    def counts(self) -> tuple[int, ...]:
        """The number of active units in each layer."""
        return tuple(int(active.sum()) for active in self.active)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The number of units in each layer, Z_l."""
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
    seed: int | Tensor | None = None,
) -> Activity:
    """Count the units u with Var_x(E[u | x]) > threshold (Burda, Grosse & Salakhutdinov 2016, section 5.2).

    Above the first layer, E[z_l | x] is the mean over z_{l-1} ~ q(. | x) of the encoder's mean of q(z_l | z_{l-1}). Its
    average over ``num_samples`` draws is noisy, which adds E_x[Var(mean | x)] / num_samples to the variance over x.
    This term is estimated from the same draws, without bias, and subtracted; the error that remains has a standard
    deviation of about ``noise`` sqrt(2 / B). Negative differences are clamped to 0.

    Args:
        model: one of :mod:`iwae_fast.models`; it runs in evaluation mode.
        x: observations (B, ...), B >= 2, on the device of the model, or a loader of batches, each as for
            :func:`iwae_fast.evaluate.log_likelihood`.
        context: further inputs of the encoder, (B, ...) each.
        mask: bool, True where x is observed, broadcasting to its shape.
        num_samples: draws per observation, at least 2; no effect on a model with a single layer.
        threshold: the variance above which a unit is active; the paper uses 0.01.
        seed: an int for reproducible draws; drawn from torch's generator if None.

    Returns:
        An :class:`Activity`.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    if checks.positive("num_samples", num_samples) < 2:
        raise ValueError(f"num_samples must be at least 2 for a variance over them, got {num_samples}")
    if not threshold >= 0.0:
        raise ValueError(f"threshold must be at least 0, got {threshold}")
    batches = []
    observations = 0
    seeded: Tensor | None = None
    every = chunks(ModelSource(model), x, context, mask, OBSERVATIONS_A_BATCH)
    with evaluation_mode(model):
        for chunk in every:
            observations = chunk.first + len(chunk.x)
            seeded = seed_tensor(seed, chunk.x.device) if seeded is None else seeded
            posterior = model.encode(chunk.x, context=chunk.context, mask=chunk.mask)
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
    """Return the average of the means of k draws, (k, B, Z), and its variance; each (B, Z) float64 on the CPU."""
    means = means.double()
    average = means.mean(0)
    noise = torch.zeros_like(average) if len(means) == 1 else means.var(0) / len(means)
    return average.cpu(), noise.cpu()
