"""Posteriors q(z | x), as :meth:`iwae_fast.models.LatentVariableModel.encode` returns them.

The two posteriors of a :class:`iwae_fast.models.VAE` have one interface: :class:`DiagonalGaussian`, which every feature
supports, and :class:`SampledPosterior` around any other torch.distributions object.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.distributions import Distribution, Independent, Normal

from ..ops.densities import gaussian_log_prob, standard_gaussian_log_prob
from ..ops.samples import sample_gaussian
from ..reference import widen
from ..seeds import torch_seeded
from .draw import Draw, noise_dtype
from .supports import REAL, Region, region_of
from .terms import LogQGradient

BLOCK = 4
"""Samples drawn per block. It is independent of the number requested, so that chunks draw the same samples as the whole
batch."""


AnyPosterior = Any
"""The result of a model's ``encode``, in the class of that model. Each has ``detach()``, for passes without a graph."""


class LatentPosterior(Protocol):
    """A posterior q(z | x) of a :class:`iwae_fast.models.VAE`, with draws and a density."""

    @property
    def mean(self) -> Tensor:
        """The mean E[z], (B, Z). Raises ValueError if there is none."""

    @property
    def size(self) -> int:
        """The number of latent dimensions, Z."""

    @property
    def region(self) -> Region | None:
        """The support; None if unknown."""

    def detach(self) -> LatentPosterior:
        """Return the posterior without gradients, for passes that record no graph."""

    def draw(self, draw: Draw, backend: str | None, stream: int = 0) -> Tensor:
        """Draw z, (k, B, Z), with the noise of a stream."""

    def log_q(self, z: Tensor, log_q_gradient: LogQGradient, backend: str | None) -> Tensor:
        """Return log q(z | x) in nats, (k, B). Raises ValueError if it does not have the gradient asked for."""

    def fused_draw(self, draw: Draw, log_q_gradient: LogQGradient, backend: str | None) -> tuple[Tensor, Tensor] | None:
        """Draw z, (k, B, Z), with log N(z; 0, I) - log q(z | x), (k, B) in nats, in one kernel; None if there is none
        for this posterior."""

    def kl_by_dimension(self) -> Tensor:
        """Return KL(q(z | x) || N(0, I)) per latent dimension, (B, Z) in nats. Raises ValueError if there is no closed
        form."""


class DiagonalGaussian(NamedTuple):
    """N(mean, exp(log_std)^2), with independent dimensions."""

    mean: Tensor
    """(B, Z); for a conditional distribution of an upper layer (k, B, Z)."""
    log_std: Tensor
    """The logarithm of the standard deviation, in the shape of the mean."""

    @property
    def region(self) -> Region:
        return REAL

    @property
    def size(self) -> int:
        return self.mean.shape[-1]

    def detach(self) -> DiagonalGaussian:
        return DiagonalGaussian(self.mean.detach(), self.log_std.detach())

    def draw(self, draw: Draw, backend: str | None, stream: int = 0) -> Tensor:
        dtype, device = noise_dtype(self.mean.dtype), self.mean.device
        noise = draw.noise(self.mean.shape[-2:], dtype=dtype, device=device, stream=stream, backend=backend)
        return self.mean + torch.exp(self.log_std) * noise

    def log_prob(self, z: Tensor, backend: str | None) -> Tensor:
        """Return the log-density in nats, (k, B), for z (k, B, Z)."""
        return gaussian_log_prob(z, self.mean, self.log_std, backend=backend)

    def log_q(self, z: Tensor, log_q_gradient: LogQGradient, backend: str | None) -> Tensor:
        held = self.detach() if log_q_gradient is LogQGradient.PATHWISE else self
        return held.log_prob(z, backend)

    def fused_draw(self, draw: Draw, log_q_gradient: LogQGradient, backend: str | None) -> tuple[Tensor, Tensor]:
        if log_q_gradient is LogQGradient.SCORE:
            z, _ = self.detach()._sample(draw, False, backend)
            return z, standard_gaussian_log_prob(z, backend=backend) - self.log_prob(z, backend)
        return self._sample(draw, log_q_gradient is LogQGradient.PATHWISE, backend)

    def _sample(self, draw: Draw, path_only: bool, backend: str | None) -> tuple[Tensor, Tensor]:
        return sample_gaussian(
            self.mean,
            self.log_std,
            draw.num_samples,
            draw.seed,
            path_only,
            sample_offset=draw.sample_offset,
            observation_offset=draw.observation_offset,
            sample_indices=draw.samples,
            backend=backend,
        )

    def kl_by_dimension(self) -> Tensor:
        mean, log_std = widen(self.mean, self.log_std)
        return 0.5 * (mean.square() + torch.exp(2.0 * log_std) - 1.0) - log_std


class SampledPosterior:
    """A torch.distributions object over z, (B, Z) in batch and event axes.

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
        self.size: int = shape[-1]
        self.region: Region | None = region_of(distribution)

    @property
    def mean(self) -> Tensor:
        try:
            return self.distribution.mean
        except NotImplementedError:
            raise ValueError(f"the encoder's {self._name} does not have a mean: draw z instead") from None

    def detach(self) -> SampledPosterior:
        """Return self: the tensors of a distribution cannot be detached in general."""
        return self

    def draw(self, draw: Draw, backend: str | None = None, stream: int = 0) -> Tensor:
        """Draw z (k, B, Z), reparameterized if the distribution has rsample. Forces a device synchronization."""
        if draw.samples is None:
            return drawn_in_blocks(self.distribution, draw, stream)
        count = int(draw.samples.max()) + 1 if draw.samples.numel() else 0
        every = drawn_in_blocks(self.distribution, draw._replace(sample_offset=0, num_samples=count), stream)
        return every.gather(0, draw.samples.unsqueeze(-1).expand(-1, -1, every.shape[-1]))

    def log_q(self, z: Tensor, log_q_gradient: LogQGradient, backend: str | None = None) -> Tensor:
        if log_q_gradient is LogQGradient.PATHWISE:
            raise ValueError(
                "the estimator holds the parameters of log q(z | x) fixed, which is not possible for the encoder's "
                f"{self._name}: use 'reparameterized' or 'rws', or return (mean, log_std)"
            )
        if log_q_gradient is LogQGradient.FULL and torch.is_grad_enabled() and not self.distribution.has_rsample:
            raise ValueError(
                f"no gradient flows through draws of the encoder's {self._name}, which does not have rsample: use "
                "'vimco' or 'rws'"
            )
        return self.distribution.log_prob(z).reshape(*z.shape[:2], -1).sum(-1)

    def fused_draw(self, draw: Draw, log_q_gradient: LogQGradient, backend: str | None) -> None:
        return None

    def kl_by_dimension(self) -> Tensor:
        raise ValueError(f"the KL divergence per dimension of the encoder's {self._name} has no closed form")

    @property
    def _name(self) -> str:
        return type(self.distribution).__name__


def drawn_in_blocks(distribution: Distribution, draw: Draw, stream: int = 0) -> Tensor:
    """Draw values of a distribution, (k, ...) in its batch and event axes, with torch's generators.

    Every block of samples has a seed of its own, so chunks of samples draw the same values as the whole.
    """
    first, count = draw.sample_offset, draw.num_samples
    blocks = range(first // BLOCK, -(-(first + count) // BLOCK)) or range(1)
    drawn = torch.cat([_block(distribution, draw, block, stream) for block in blocks])
    return drawn[first - blocks.start * BLOCK :][:count]


def _block(distribution: Distribution, draw: Draw, block: int, stream: int) -> Tensor:
    indices = (draw.observation_offset, block, *((stream,) if stream else ()))
    with torch_seeded(draw.seed, *indices):
        if distribution.has_rsample:  # also without a graph: sample() may draw different numbers
            return distribution.rsample((BLOCK,))
        return distribution.sample((BLOCK,))


def posterior_of(output: Any) -> LatentPosterior:
    """Return an encoder's output, (mean, log_std) or a distribution over z, as a posterior; a posterior is returned
    unchanged. Raises TypeError for anything else."""
    if isinstance(output, SampledPosterior):
        return output
    if not isinstance(output, Distribution):
        return gaussian("encoder", output)
    base = output.base_dist if type(output) is Independent else output
    if type(base) is Normal and len(base.batch_shape) == 2:
        return DiagonalGaussian(base.loc, base.scale.log())
    return SampledPosterior(output)


def gaussian(name: str, output: Any) -> DiagonalGaussian:
    """Return the output of a module, (mean, log_std), as a Gaussian; raise TypeError that names the module unless it is
    such a pair."""
    if not isinstance(output, tuple) or len(output) != 2:
        raise TypeError(f"the {name} must return (mean, log_std), got {type(output).__name__}")
    return DiagonalGaussian(*output)
