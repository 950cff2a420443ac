"""Bounds over groups of samples, or of two mixed bounds: MIWAE, CIWAE and PIWAE (Rainforth et al. 2018)."""

from __future__ import annotations

from torch import Tensor

from .. import checks
from ..ops.weights import log_mean_exp, normalized_weights
from .base import Bound, Coefficients, PowerMean, widened, without_graph
from .power import ELBO, IWAE


def check_groups(bound: Bound, log_weights: Tensor, groups: int) -> None:
    """Raise ValueError if k is not divisible by the number of groups."""
    if log_weights.dim() and len(log_weights) % groups:
        raise ValueError(f"{bound!r} needs k divisible by {groups}, got k = {len(log_weights)}")


class MIWAE(Bound):
    """The mean over M groups of the IWAE bound of the k / M samples in each: ``log_weights.reshape(M, k / M, ...)``.

    g = w~ / M and D = w~ (1 - w~) / M with w~ normalized within the group.

    Args:
        groups: M >= 1. k must be divisible by M, otherwise calls raise ValueError.
    """

    is_lower_bound = True

    def __init__(self, groups: int) -> None:
        self.groups: int = checks.positive("groups", groups)

    @property
    def power_mean(self) -> PowerMean:  # type: ignore[override]
        return PowerMean(1.0, self.groups)

    def __call__(self, log_weights: Tensor) -> Tensor:
        return log_mean_exp(self._grouped(log_weights), dim=1).mean(0)

    @without_graph
    def coefficients(self, log_weights: Tensor) -> Coefficients:
        weights = normalized_weights(self._grouped(log_weights), dim=1)
        g, D = weights / self.groups, weights * (1.0 - weights) / self.groups
        return Coefficients(self(log_weights), g.reshape(log_weights.shape), D.reshape(log_weights.shape))

    def _grouped(self, log_weights: Tensor) -> Tensor:
        log_weights = widened(log_weights)
        check_groups(self, log_weights, self.groups)
        return log_weights.reshape(self.groups, len(log_weights) // self.groups, *log_weights.shape[1:])

    def _settings(self) -> tuple[object, ...]:
        return (self.groups,)


class PIWAE(IWAE):
    """IWAE of all samples for the decoder, and MIWAE of the same samples in groups for the encoder.

    Value and coefficients are those of the decoder; the encoder's are ``for_encoder.coefficients``.

    Args:
        groups: M >= 1. k must be divisible by M, otherwise calls raise ValueError.
    """

    is_lower_bound = True

    def __init__(self, groups: int) -> None:
        self.groups: int = checks.positive("groups", groups)

    @property
    def for_encoder(self) -> Bound:
        return MIWAE(self.groups)

    def __call__(self, log_weights: Tensor) -> Tensor:
        checks.floating(log_weights=log_weights)
        check_groups(self, log_weights, self.groups)
        return super().__call__(log_weights)

    def _settings(self) -> tuple[object, ...]:
        return (self.groups,)


class CIWAE(Bound):
    """The mixture beta ELBO + (1 - beta) IWAE; g and D are mixed alike.

    Args:
        beta: between 0 and 1.
    """

    is_lower_bound = True

    def __init__(self, beta: float) -> None:
        if isinstance(beta, bool) or not isinstance(beta, (int, float)) or not 0.0 <= beta <= 1.0:
            raise ValueError(f"beta must be between 0 and 1, got {beta!r}")
        self.beta: float = float(beta)

    def __call__(self, log_weights: Tensor) -> Tensor:
        if self.beta in (0.0, 1.0):  # 0 * -inf would be NaN
            return (ELBO() if self.beta else IWAE())(log_weights)
        return self.beta * ELBO()(log_weights) + (1.0 - self.beta) * IWAE()(log_weights)

    @without_graph
    def coefficients(self, log_weights: Tensor) -> Coefficients:
        elbo, iwae = ELBO().coefficients(log_weights), IWAE().coefficients(log_weights)
        g, D = (self.beta * e + (1.0 - self.beta) * i for e, i in ((elbo.g, iwae.g), (elbo.D, iwae.D)))
        return Coefficients(self(log_weights), g, D)

    def _settings(self) -> tuple[object, ...]:
        return (self.beta,)
