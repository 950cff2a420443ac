"""The dense networks of the papers (Burda, Grosse & Salakhutdinov 2016, section 5)."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from ..linear import linear_tanh
from .base import LinearOutput
from .vae import VAE

WORTH_A_KERNEL = 2**15
"""Elements of a layer's output from which on a kernel of its own takes less time than torch's operations."""


class DenseVAE(VAE):
    """Dense layers with tanh and Bernoulli pixels; for 28x28 data D-200-200-(50)-200-200-D is the paper's one-layer
    network, and D-200-200-(100), 100-100-100-(50), mirrored, its two-layer one.

    Glorot-uniform weights and zero biases; the output bias starts at the logit of the mean pixel.

    Args:
        data_dim: D, the number of features of an observation.
        latent_dims: the size of each stochastic layer, the one nearest to the data first.
        hidden_dims: sizes of the deterministic layers below each stochastic one, (h, ...) for one layer,
            ((h, ...), (h, ...)) for two; the way down mirrors them. By default (200, 200), then (100, 100).
        data_mean: (D,) mean of the training data in [0, 1], for the output bias; 0.5 everywhere if None.
        backend: force a backend of the package by name.
    """

    def __init__(
        self,
        data_dim: int,
        latent_dims: Sequence[int] = (50,),
        hidden_dims: Sequence[int] | Sequence[Sequence[int]] | None = None,
        *,
        data_mean: Tensor | None = None,
        backend: str | None = None,
    ) -> None:
        latent_dims = tuple(latent_dims)
        hidden = _hidden_by_layer(hidden_dims, len(latent_dims))
        if not latent_dims or min(data_dim, *latent_dims, *(size for sizes in hidden for size in sizes)) < 1:
            raise ValueError(f"layer sizes must be at least 1, got {(data_dim, hidden, latent_dims)}")
        encoder = GaussianNetwork(data_dim, hidden[0], latent_dims[0])
        decoder = DenseDecoder(latent_dims[0], hidden[0][::-1], data_dim)
        upper = [
            (GaussianNetwork(below, sizes, above), GaussianNetwork(above, sizes[::-1], below))
            for below, above, sizes in zip(latent_dims, latent_dims[1:], hidden[1:], strict=False)
        ]
        super().__init__(encoder, decoder, "bernoulli", upper=upper, latent_dim=latent_dims[-1], backend=backend)
        glorot(self)
        start_at_mean(decoder.output.bias, data_mean)


def glorot(module: nn.Module) -> None:
    """Glorot-uniform weights and zero biases in every linear layer."""
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def start_at_mean(logits_bias: Tensor, data_mean: Tensor | None) -> None:
    """An output bias at the logit of the mean pixel, kept off 0 and 1 (Burda, Grosse & Salakhutdinov 2016)."""
    if data_mean is None:
        return
    if data_mean.shape != logits_bias.shape:
        raise ValueError(f"data_mean must be {tuple(logits_bias.shape)}, got {tuple(data_mean.shape)}")
    logits_bias.copy_(torch.logit(data_mean.clamp(0.001, 0.999)))


def _hidden_by_layer(
    hidden_dims: Sequence[int] | Sequence[Sequence[int]] | None, layers: int
) -> tuple[tuple[int, ...], ...]:
    """The sizes below each stochastic layer."""
    if hidden_dims is None:
        return ((200, 200), *((100, 100),) * (layers - 1))
    if all(isinstance(size, int) for size in hidden_dims):
        hidden_dims = (hidden_dims,)  # type: ignore[assignment]
    hidden = tuple(tuple(sizes) for sizes in hidden_dims)  # type: ignore[arg-type]
    if len(hidden) != layers:
        raise ValueError(f"hidden_dims must say the sizes below each of {layers} stochastic layers, got {hidden_dims}")
    return hidden


class GaussianNetwork(nn.Module):
    """Observations or latents (N, ...) to mean and log standard deviation, each (N, Z)."""

    def __init__(self, input_dim: int, hidden_dims: Sequence[int], output_dim: int) -> None:
        super().__init__()
        self.hidden = tanh_layers((input_dim, *hidden_dims))
        width = (input_dim, *hidden_dims)[-1]
        self.mean = nn.Linear(width, output_dim)
        self.log_std = nn.Linear(width, output_dim)

    def forward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(value.flatten(1))
        return self.mean(hidden), self.log_std(hidden)


class DenseDecoder(LinearOutput):
    """Latents (N, Z) to logits (N, D)."""

    def __init__(self, latent_dim: int, hidden_dims: Sequence[int], data_dim: int) -> None:
        super().__init__()
        self.hidden = tanh_layers((latent_dim, *hidden_dims))
        self.output = nn.Linear((latent_dim, *hidden_dims)[-1], data_dim)

    def features(self, z: Tensor, *context: Tensor) -> Tensor:
        return self.hidden(z, *context)


class TanhLayer(nn.Linear):
    """A dense layer with tanh, in one op where there is enough for it to do."""

    def forward(self, input: Tensor) -> Tensor:
        if len(input) * self.out_features < WORTH_A_KERNEL:
            return torch.tanh(super().forward(input))
        return linear_tanh(input, self.weight, self.bias)


def tanh_layers(sizes: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(*(TanhLayer(inputs, outputs) for inputs, outputs in pairwise(sizes)))
