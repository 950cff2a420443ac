"""Posteriors q(z | x) that an encoder returns as torch.distributions objects."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from ..seeds import torch_seeded
from .base import Draw, Posterior
from .supports import region_of

BLOCK = 4
"""Samples drawn per block. It is independent of the number requested, so that chunks draw the same samples as the whole
batch."""


def posterior_of(distribution: Distribution) -> Posterior:
    """Return (mean, log_std) for a Gaussian, which every feature supports; else a tuple that holds the distribution."""
    base = distribution.base_dist if type(distribution) is Independent else distribution
    if type(base) is Normal and len(base.batch_shape) == 2:
        return base.loc, base.scale.log()
    return (SampledPosterior(distribution),)


class SampledPosterior:
    """A posterior q(z | x) of B observations, (B, Z) in batch and event axes, with draws and a density.

    The noise of a draw is a function of (seed, observation_offset, sample), from torch's generators. Chunks of samples
    draw the same noise as the whole. Shards of observations draw different noise than the whole batch, and than each
    other.
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
        """Return self: the counterpart of ``Tensor.detach`` for passes that record no graph."""
        return self

    def draw(self, draw: Draw) -> Tensor:
        """Draw z (k, B, Z), reparameterized if the distribution has rsample. Forces a device synchronization."""
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
            if self.distribution.has_rsample:  # also without a graph: sample() may draw different numbers
                return self.distribution.rsample((BLOCK,))
            return self.distribution.sample((BLOCK,))

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z | x) in nats, (k, B), for z (k, B, Z)."""
        return self.distribution.log_prob(z).reshape(*z.shape[:2], -1).sum(-1)

    @property
    def has_path(self) -> bool:
        return self.distribution.has_rsample

    @property
    def size(self) -> int:
        """The number of latent dimensions, Z."""
        return (*self.distribution.batch_shape, *self.distribution.event_shape)[-1]

    @property
    def mean(self) -> Tensor:
        """The mean E[z], (B, Z). Raises ValueError if the distribution does not implement it."""
        try:
            return self.distribution.mean
        except NotImplementedError:
            raise ValueError(
                f"the encoder's {type(self.distribution).__name__} does not have a mean: draw z instead"
            ) from None
