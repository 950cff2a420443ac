"""The networks that are trained, as plain torch modules with the weights of this package's model: the papers' networks
with one and two stochastic layers, and a convolutional one.

Every rival trains these, so that architecture and weights are the same for all. They stay close to the initial weights:
with Adam at a learning rate of 1e-7, ten thousand steps change a weight by at most a thousandth, so the time of a step
that depends on its importance weights does not change either. The pixels are independent Bernoulli draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

import iwae_fast as iw

from .work import CPU

LEARNING_RATE = 1e-7


class Networks(NamedTuple):
    """The modules of a model."""

    encoder: nn.Module
    """x (B, D) to the mean and log standard deviation of q(z | x), (B, Z) each."""
    decoder: nn.Module
    """z (..., Z) to the logits of p(x | z), (..., D)."""
    upper: nn.ModuleList
    """A pair of modules per further stochastic layer: from z to q of the layer above, and from there to p of z."""


@dataclass(frozen=True)
class Setting:
    """The sizes of a network and of its batch; this one is the papers' with one stochastic layer."""

    k: int
    batch: int = 20
    features: int = 784
    hidden: int = 200
    latents: int = 50
    device: torch.device = CPU

    def __str__(self) -> str:
        return f"k={self.k} B={self.batch} {self.name}"

    @property
    def name(self) -> str:
        return f"{self.features}-{self.hidden}-{self.hidden}-{self.latents}"

    def vae(self, backend: str | None) -> iw.models.VAE:
        """Build this package's model."""
        return iw.models.DenseVAE(self.features, (self.latents,), (self.hidden, self.hidden), backend=backend)

    def plain(self) -> Networks:
        """Build the same networks from torch's modules alone, with parameters in the same order."""
        return Networks(
            GaussianLayers(self.features, self.hidden, self.latents),
            nn.Sequential(*tanh_layers(self.latents, self.hidden), nn.Linear(self.hidden, self.features)),
            nn.ModuleList(),
        )


@dataclass(frozen=True)
class TwoLayers(Setting):
    """The papers' network with two stochastic layers."""

    latents: int = 100
    upper_hidden: int = 100
    upper_latents: int = 50

    @property
    def name(self) -> str:
        return f"{super().name}-{self.upper_hidden}-{self.upper_hidden}-{self.upper_latents}"

    def vae(self, backend: str | None) -> iw.models.VAE:
        hidden = (self.hidden, self.hidden), (self.upper_hidden, self.upper_hidden)
        return iw.models.DenseVAE(self.features, (self.latents, self.upper_latents), hidden, backend=backend)

    def plain(self) -> Networks:
        encoder, decoder, _ = super().plain()
        sizes = self.latents, self.upper_hidden, self.upper_latents
        pair = nn.ModuleList([GaussianLayers(*sizes), GaussianLayers(*reversed(sizes))])
        return Networks(encoder, decoder, nn.ModuleList([pair]))


@dataclass(frozen=True)
class Convolutional(Setting):
    """A network of convolutions for 28x28 pixels: 4x4 kernels with stride 2, two layers each way."""

    batch: int = 128
    latents: int = 32
    channels: tuple[int, int] = (32, 64)

    @property
    def name(self) -> str:
        return f"convolutional {self.channels[0]}-{self.channels[1]}-{self.latents}"

    def vae(self, backend: str | None) -> iw.models.VAE:
        encoder, decoder, _ = self.plain()
        return iw.models.VAE(encoder, decoder, latent_dim=self.latents, backend=backend)

    def plain(self) -> Networks:
        few, many = self.channels
        size = many * 7 * 7
        encoder = nn.Sequential(
            nn.Unflatten(1, (1, 28, 28)),
            *(nn.Conv2d(1, few, 4, 2, 1), nn.ReLU(), nn.Conv2d(few, many, 4, 2, 1), nn.ReLU()),
            *(nn.Flatten(), nn.Linear(size, 2 * self.latents), Halves()),
        )
        decoder = nn.Sequential(
            *(nn.Linear(self.latents, size), nn.ReLU(), nn.Unflatten(1, (many, 7, 7))),
            *(nn.ConvTranspose2d(many, few, 4, 2, 1), nn.ReLU(), nn.ConvTranspose2d(few, 1, 4, 2, 1), nn.Flatten()),
        )
        return Networks(encoder, ByRow(decoder), nn.ModuleList())


class GaussianLayers(nn.Module):
    """Tanh layers from (..., D) to a mean and a log standard deviation, (..., Z) each."""

    def __init__(self, inputs: int, hidden: int, outputs: int) -> None:
        super().__init__()
        self.hidden = tanh_layers(inputs, hidden)
        self.mean = nn.Linear(hidden, outputs)
        self.log_std = nn.Linear(hidden, outputs)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(x)
        return self.mean(hidden), self.log_std(hidden)


class Halves(nn.Module):
    """The two halves of the last axis."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first, second = x.chunk(2, -1)
        return first, second


class ByRow(nn.Module):
    """A network for (N, Z), applied to (..., Z)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor) -> Tensor:
        found: Tensor = self.network(z.flatten(0, -2))
        return found.unflatten(0, z.shape[:-1])


def tanh_layers(size: int, hidden: int) -> nn.Sequential:
    layers = ((nn.Linear(inputs, outputs), nn.Tanh()) for inputs, outputs in pairwise((size, hidden, hidden)))
    return nn.Sequential(*(module for layer in layers for module in layer))


def networks(setting: Setting) -> Networks:
    """Return the plain networks with the initial weights shared by all providers."""
    plain = setting.plain()
    for module in plain:
        module.to(setting.device)
    with torch.no_grad():
        for own, given in zip(parameters(*plain), vae(setting).parameters(), strict=True):
            own.copy_(given)
    return plain


def parameters(*modules: nn.Module) -> list[nn.Parameter]:
    return [parameter for module in modules for parameter in module.parameters()]


def weight_matrices(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters without biases, in the same order for every provider: from the pixels to z and back."""
    return [parameter for parameter in parameters if parameter.dim() >= 2]


def vae(setting: Setting, backend: str | None = None) -> iw.models.VAE:
    """Return this package's model with its initial weights."""
    torch.manual_seed(0)
    return setting.vae(backend).to(setting.device)


def observations(setting: Setting) -> Tensor:
    """Return random binary pixels (B, D); a fifth of them is 1, about as in MNIST."""
    pixels = torch.rand(setting.batch, setting.features, generator=torch.Generator().manual_seed(0)) < 0.2
    return pixels.float().to(setting.device)
