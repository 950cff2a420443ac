"""The record of a call of an objective, from which diagnostics are computed on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from ..ops.weights import normalized_weights
from ..reference import effective_sample_size_of_weights


class Diagnostics(NamedTuple):
    """Diagnostics of the last call of an objective, per observation, without a graph."""

    value: Tensor
    """The bound in nats, (B,), for log-weights with ``kl_weight``."""
    ess: Tensor
    """Effective sample size of the weights, (B,)."""
    max_weight: Tensor
    """Largest normalized weight, (B,)."""
    num_backward: Tensor
    """Number of samples that ran backward, (B,)."""
    kl_weight: float = 1.0
    """The factor of log p(z) - log q(z | x)."""


class StepRecord(NamedTuple):
    """Inputs of the lazily computed diagnostics."""

    value: Tensor
    num_backward: int | Tensor
    kl_weight: float
    weights: Tensor
    """Normalized weights or log-weights, (k, B)."""
    normalized: bool
    """True if ``weights`` are normalized."""
    shares_buffers: bool = False
    """True if a captured step reuses these buffers; results must be cloned."""

    @torch.no_grad()
    def diagnostics(self) -> Diagnostics:
        """Compute the diagnostics; runs several operations."""
        weights = self.weights if self.normalized else normalized_weights(self.weights)
        value, num_backward = self.value, self.num_backward
        if isinstance(num_backward, int):
            num_backward = torch.full(weights.shape[1:], num_backward, dtype=torch.int64, device=weights.device)
        elif self.shares_buffers:
            num_backward = num_backward.clone()
        ess = effective_sample_size_of_weights(weights)
        value = value.clone() if self.shares_buffers else value
        return Diagnostics(value, ess, weights.amax(0), num_backward, self.kl_weight)


def concatenate(records: Sequence[StepRecord]) -> StepRecord:
    """Return the record of one call over the observations of several calls of an objective."""
    first = records[0]
    if len(records) == 1:
        return first
    num_backward = first.num_backward
    if isinstance(num_backward, Tensor):
        num_backward = torch.cat([cast(Tensor, each.num_backward) for each in records])
    value, weights = torch.cat([each.value for each in records]), torch.cat([each.weights for each in records], 1)
    return first._replace(value=value, num_backward=num_backward, weights=weights)
