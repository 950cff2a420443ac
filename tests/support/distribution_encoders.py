"""Encoders that return torch.distributions objects."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.distributions import (
    AffineTransform,
    Distribution,
    Independent,
    Normal,
    TanhTransform,
    TransformedDistribution,
)


class AsDistribution(nn.Module):
    """An encoder that returns ``build(mean, log_std)`` of another encoder's output."""

    def __init__(self, encoder: nn.Module, build: Callable[[Tensor, Tensor], Distribution]) -> None:
        super().__init__()
        self.encoder, self.build = encoder, build

    def forward(self, x: Tensor) -> Distribution:
        return self.build(*self.encoder(x))


class Wrapped(nn.Module):
    def __init__(self, net: nn.Module, build: Callable[[Tensor], Distribution]) -> None:
        super().__init__()
        self.net, self.build = net, build

    def forward(self, x: Tensor) -> Distribution:
        return self.build(self.net(x))


def affine_flow(mean: Tensor, log_std: Tensor) -> Distribution:
    """Return a Gaussian in a form that only torch.distributions can evaluate."""
    base = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return TransformedDistribution(Independent(base, 1), AffineTransform(mean, log_std.exp(), event_dim=1))


def bent_flow(mean: Tensor, log_std: Tensor) -> Distribution:
    return TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(), AffineTransform(0.0, 2.0)])
