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
    """Another encoder's (mean, log_std), as ``build`` has it."""

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
    """The Gaussian, in a form that nothing but torch.distributions knows as one."""
    base = Normal(torch.zeros_like(mean), torch.ones_like(mean))
    return TransformedDistribution(Independent(base, 1), AffineTransform(mean, log_std.exp(), event_dim=1))


def bent_flow(mean: Tensor, log_std: Tensor) -> Distribution:
    return TransformedDistribution(Normal(mean, log_std.exp()), [TanhTransform(), AffineTransform(0.0, 2.0)])
