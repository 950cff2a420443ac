"""The papers' one-layer network as plain torch modules, with the weights of :class:`iwae_fast.models.DenseVAE`.

Every rival trains these, so that architecture and weights are the same for all. They stay close to the initial weights:
with Adam at a learning rate of 1e-7, ten thousand steps change a weight by at most a thousandth, so the time of a step
that depends on its importance weights does not change either. The pixels are independent Bernoulli draws.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

import iwae_fast as iw

from .work import CPU

LEARNING_RATE = 1e-7


@dataclass(frozen=True)
class Setting:
    """The sizes of a network and of its batch."""

    k: int
    batch: int = 20
    features: int = 784
    hidden: int = 200
    latents: int = 50
    device: torch.device = CPU

    def __str__(self) -> str:
        sizes = f"{self.features}-{self.hidden}-{self.hidden}-{self.latents}"
        return f"k={self.k} B={self.batch} {sizes}"


class Encoder(nn.Module):
    """The encoder: x (B, D) to the mean and log standard deviation of q(z | x), (B, Z) each."""

    def __init__(self, setting: Setting) -> None:
        super().__init__()
        self.hidden = tanh_layers(setting.features, setting.hidden)
        self.mean = nn.Linear(setting.hidden, setting.latents)
        self.log_std = nn.Linear(setting.hidden, setting.latents)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(x)
        return self.mean(hidden), self.log_std(hidden)


def decoder_layers(setting: Setting) -> nn.Sequential:
    """Return the decoder: z (..., Z) to the logits of p(x | z), (..., D)."""
    return nn.Sequential(*tanh_layers(setting.latents, setting.hidden), nn.Linear(setting.hidden, setting.features))


def tanh_layers(size: int, hidden: int) -> nn.Sequential:
    return nn.Sequential(nn.Linear(size, hidden), nn.Tanh(), nn.Linear(hidden, hidden), nn.Tanh())


def networks(setting: Setting) -> tuple[Encoder, nn.Sequential]:
    """Return encoder and decoder with the initial weights shared by all providers."""
    encoder, decoder = Encoder(setting).to(setting.device), decoder_layers(setting).to(setting.device)
    with torch.no_grad():
        for own, given in zip(parameters(encoder, decoder), dense_vae(setting).parameters(), strict=True):
            own.copy_(given)
    return encoder, decoder


def parameters(*modules: nn.Module) -> list[nn.Parameter]:
    return [parameter for module in modules for parameter in module.parameters()]


def weight_matrices(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Return the parameters without biases, in the same order for every provider: from the pixels to z and back."""
    return [parameter for parameter in parameters if parameter.dim() == 2]


def dense_vae(setting: Setting, backend: str | None = None) -> iw.models.DenseVAE:
    torch.manual_seed(0)
    hidden = (setting.hidden, setting.hidden)
    return iw.models.DenseVAE(setting.features, (setting.latents,), hidden, backend=backend).to(setting.device)


def observations(setting: Setting) -> Tensor:
    """Return random binary pixels (B, D); a fifth of them is 1, about as in MNIST."""
    pixels = torch.rand(setting.batch, setting.features, generator=torch.Generator().manual_seed(0)) < 0.2
    return pixels.float().to(setting.device)
