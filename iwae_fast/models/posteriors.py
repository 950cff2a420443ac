"""Posteriors q(z | x) that an encoder returns as torch.distributions objects."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from ..seeds import torch_seeded
from .base import Draw, Posterior
from .supports import region_of

BLOCK = 4
"""Samples that are drawn at a time, whatever the number that is wanted: so that chunks draw what the whole would."""


def posterior_of(distribution: Distribution) -> Posterior:
    """(mean, log_std) of a Gaussian, for which everything is offered; else the distribution, as a tuple of one."""
    base = distribution.base_dist if type(distribution) is Independent else distribution
    if type(base) is Normal and len(base.batch_shape) == 2:
        return base.loc, base.scale.log()
    return (SampledPosterior(distribution),)


class SampledPosterior:
    """q(z | x) of B observations, (B, Z) in batch and event axes, known by its draws and its density.

    The noise of a draw is a function of (seed, observation_offset, sample), by torch's generators: chunks of samples
    draw what the whole would; shards of observations draw other noise than the whole, but not each other's.
    """

    def __init__(self, distribution: Distribution) -> None:
        shape = (*distribution.batch_shape, *distribution.event_shape)
        if len(shape) != 2:
            raise ValueError(
                f"the encoder's distribution must be over z, (B, Z) in batch and event axes, got {shape} of "
                f"{type(distribution).__name__}"
            )
        self.distribution = distribution
        self.region = region_of(distribution)

    def detach(self) -> SampledPosterior:
        """As a tensor's, for passes that record no graph."""
        return self

    def draw(self, draw: Draw) -> Tensor:
        """z (k, B, Z), with a path to the encoder where there is one. Waits for the device."""
        if draw.samples is None:
            return self._range(draw, draw.sample_offset, draw.num_samples)
        every = self._range(draw, 0, int(draw.samples.max()) + 1 if draw.samples.numel() else 0)
        return every.gather(0, draw.samples.unsqueeze(-1).expand(-1, -1, every.shape[-1]))

    def _range(self, draw: Draw, first: int, count: int) -> Tensor:
        blocks = range(first // BLOCK, -(-(first + count) // BLOCK))
        drawn = torch.cat([self._block(draw, block) for block in blocks] or [self._block(draw, 0)])
        return drawn[first - blocks.start * BLOCK :][:count]

    def _block(self, draw: Draw, block: int) -> Tensor:
        with torch_seeded(draw.seed, draw.observation_offset, block):
            if self.distribution.has_rsample:  # also without a graph: sample() would draw other numbers
                return self.distribution.rsample((BLOCK,))
            return self.distribution.sample((BLOCK,))

    def log_prob(self, z: Tensor) -> Tensor:
        """log q(z | x) in nats, (k, B), of z (k, B, Z)."""
        return self.distribution.log_prob(z).reshape(*z.shape[:2], -1).sum(-1)

    @property
    def has_path(self) -> bool:
        return self.distribution.has_rsample

    @property
    def size(self) -> int:
        """Z, the number of latent dimensions."""
        return (*self.distribution.batch_shape, *self.distribution.event_shape)[-1]

    @property
    def mean(self) -> Tensor:
        """E[z], (B, Z). ValueError where the distribution does not know it."""
        try:
            return self.distribution.mean
        except NotImplementedError:
            raise ValueError(
                f"the encoder's {type(self.distribution).__name__} has no mean: draw z in its place"
            ) from None
