"""The terms of log w = log p(x | z) + log p(z) - log q(z | x), and the gradients that they pass on."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple, Protocol

from torch import Tensor


class LogQGradient(Enum):
    """The dependencies of log q(z | x) that are differentiated."""

    FULL = "z and the encoder's parameters"
    PATHWISE = "z alone: the parameters are held fixed inside log q"
    SCORE = "the parameters alone: z is held fixed"


class Latents(NamedTuple):
    """Samples of z, and the two parts of log p(z) - log q(z | x), each (k, B) in nats."""

    z: Tensor
    """(k, B, Z), as the decoder sees it."""
    log_prior: Tensor | None
    """The part of log p(z) that has parameters or is user-defined, whose gradient is scaled as the decoder's; None if
    there is no such part."""
    log_ratio: Tensor
    """The rest of log p(z) minus log q(z | x); its gradient reaches only the encoder."""


class Terms(NamedTuple):
    """The terms of log w = log p(x | z) + log p(z) - log q(z | x), each (k, B) in nats."""

    log_likelihood: Tensor
    """log p(x | z)."""
    log_prior: Tensor | None
    """See :class:`Latents`."""
    log_ratio: Tensor
    """See :class:`Latents`."""

    @property
    def parts(self) -> tuple[Tensor, ...]:
        """The terms that there are: log p(x | z), log p(z) if it is one, and the log-ratio."""
        return tuple(term for term in self if term is not None)

    def log_weights(self, kl_weight: float = 1.0) -> Tensor:
        """Return log p(x | z) + kl_weight (log p(z) - log q(z | x)), (k, B)."""
        return self.log_likelihood + weighted(self.log_prior, self.log_ratio, kl_weight)


def weighted(log_prior: Tensor | None, log_ratio: Tensor, kl_weight: float) -> Tensor:
    """Return kl_weight (log p(z) - log q(z | x)), (k, B)."""
    whole = log_ratio if log_prior is None else log_prior + log_ratio
    return whole if kl_weight == 1.0 else kl_weight * whole


class RouteZ(Protocol):
    """Route of z from the encoder to the densities: see :class:`iwae_fast.objectives.routing.GradientRouter`."""

    reparameterize_prior: bool

    def __call__(self, z: Tensor, from_prior: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]: ...
