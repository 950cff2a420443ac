"""The dense networks of the papers (Burda, Grosse & Salakhutdinov 2016, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from .vae import VAE


class DenseVAE(VAE):
    """D-200-200-(50)-200-200-D with tanh and Bernoulli pixels, for 28x28 data the one-layer network of the paper.

    Glorot-uniform weights and zero biases; the output bias starts at the logit of the mean pixel.

    Args:
        data_dim: D, the number of features of an observation.
        latent_dims: the size of z: one entry, one stochastic layer.
        hidden_dims: sizes of the deterministic layers of the encoder; the decoder mirrors them.
        data_mean: (D,) mean of the training data in [0, 1], for the output bias; 0.5 everywhere if None.
        backend: force a backend of the package by name.
    """

    def __init__(
        self,
        data_dim: int,
        latent_dims: Sequence[int] = (50,),
        hidden_dims: Sequence[int] = (200, 200),
        *,
        data_mean: Tensor | None = None,
        backend: str | None = None,
    ) -> None:
        latent_dims, hidden_dims = tuple(latent_dims), tuple(hidden_dims)
        if len(latent_dims) != 1:
            raise ValueError(f"latent_dims must have one entry (one stochastic layer), got {latent_dims}")
        if min(data_dim, *latent_dims, *hidden_dims) < 1:
            raise ValueError(f"layer sizes must be at least 1, got {(data_dim, hidden_dims, latent_dims)}")
        (latent_dim,) = latent_dims
        encoder = GaussianEncoder(data_dim, hidden_dims, latent_dim)
        decoder = DenseDecoder(latent_dim, hidden_dims[::-1], data_dim)
        super().__init__(encoder, decoder, "bernoulli", latent_dim=latent_dim, backend=backend)
        self.config: dict[str, Any] = {
            "data_dim": data_dim,
            "latent_dims": list(latent_dims),
            "hidden_dims": list(hidden_dims),
        }
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        if data_mean is not None:
            if data_mean.shape != (data_dim,):
                raise ValueError(f"data_mean must be ({data_dim},), got {tuple(data_mean.shape)}")
            with torch.no_grad():
                decoder.output.bias.copy_(torch.logit(data_mean.clamp(0.001, 0.999)))


class GaussianEncoder(nn.Module):
    """Observations (B, ...) to mean and log standard deviation, each (B, Z)."""

    def __init__(self, data_dim: int, hidden_dims: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.hidden = tanh_layers((data_dim, *hidden_dims))
        width = (data_dim, *hidden_dims)[-1]
        self.mean = nn.Linear(width, latent_dim)
        self.log_std = nn.Linear(width, latent_dim)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(x.flatten(1))
        return self.mean(hidden), self.log_std(hidden)


class DenseDecoder(nn.Module):
    """Latents (N, Z) to logits (N, D): the hidden layers are :meth:`features`, the last layer is ``output``."""

    def __init__(self, latent_dim: int, hidden_dims: Sequence[int], data_dim: int) -> None:
        super().__init__()
        self.hidden = tanh_layers((latent_dim, *hidden_dims))
        self.output = nn.Linear((latent_dim, *hidden_dims)[-1], data_dim)

    def features(self, z: Tensor) -> Tensor:
        """What the output layer sees, (N, H)."""
        return self.hidden(z)

    def forward(self, z: Tensor) -> Tensor:
        return self.output(self.features(z))


def tanh_layers(sizes: Sequence[int]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for inputs, outputs in pairwise(sizes):
        layers += [nn.Linear(inputs, outputs), nn.Tanh()]
    return nn.Sequential(*layers)
