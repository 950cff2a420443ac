"""The dense networks of Burda, Grosse & Salakhutdinov (2016, section 5), and similar ones for other data."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from ..likelihoods import Likelihood, as_likelihood
from ..likelihoods.bounded import bounded, checked_bounds
from ..modules import as_parameters, runs_forward
from ..ops.layers import linear_activation, linear_heads
from ..reference.activations import ACTIVATIONS
from .linear_output import LinearOutput
from .vae import VAE

WORTH_A_KERNEL = 2**15
"""Minimum number of elements of a layer's output on the CPU for which a kernel is faster than torch's operations."""


class DenseVAE(VAE):
    """A VAE with dense tanh layers, by default for Bernoulli pixels.

    For 28x28 data D-200-200-(50)-200-200-D is the paper's one-layer network, and D-200-200-(100), 100-100-100-(50),
    mirrored, its two-layer one. Weights are initialized Glorot-uniform, biases at zero, and the output bias so that
    E[x | z] is the mean of the data. The encoder's input is log(1 + x) for counts, and levels from 0 to 1 for class
    indices (:meth:`iwae_fast.likelihoods.Likelihood.encoder_input`).

    Args:
        data_dim: D, the number of features per observation.
        latent_dims: the size of each stochastic layer, the one nearest to the data first.
        hidden_dims: sizes of the deterministic layers below each stochastic one, (h, ...) for one layer,
            ((h, ...), (h, ...)) for two; the decoder and priors mirror them. By default (200, 200), then (100, 100).
        likelihood: a name from :data:`iwae_fast.likelihoods.LIKELIHOODS`, or a likelihood; the decoder has one output
            layer per output of the likelihood.
        prior: see :class:`VAE`.
        data_mean: (D,) mean of the training data, to which the output bias sets the initial E[x | z]; the bias is zero
            if None. Not used by "categorical" and :class:`iwae_fast.likelihoods.FromDistribution`.
        log_std_bounds: bounds (low, high) of the log standard deviations of q, and of the priors between layers: as for
            :class:`iwae_fast.likelihoods.Gaussian`, which has its own.
        validate: see :class:`VAE`.
        backend: force a backend of the package by name.
    """

    def __init__(
        self,
        data_dim: int,
        latent_dims: Sequence[int] = (50,),
        hidden_dims: Sequence[int] | Sequence[Sequence[int]] | None = None,
        *,
        likelihood: str | Likelihood = "bernoulli",
        prior: nn.Module | Distribution | None = None,
        data_mean: Tensor | None = None,
        log_std_bounds: tuple[float, float] | None = None,
        validate: bool = False,
        backend: str | None = None,
    ) -> None:
        latent_dims = tuple(latent_dims)
        hidden = _hidden_by_layer(hidden_dims, len(latent_dims))
        if not latent_dims or min(data_dim, *latent_dims, *(size for sizes in hidden for size in sizes)) < 1:
            raise ValueError(f"layer sizes must be at least 1, got {(data_dim, hidden, latent_dims)}")
        likelihood = as_likelihood(likelihood)
        bounds = checked_bounds(log_std_bounds)
        sizes_of_outputs = likelihood.output_sizes(data_dim)
        encoder = GaussianNetwork(
            data_dim,
            hidden[0],
            latent_dims[0],
            likelihood.encoder_input,
            width=likelihood.encoder_width(data_dim),
            takes_mask=likelihood.encoder_takes_mask,
            log_std_bounds=bounds,
        )
        decoder = dense_decoder(latent_dims[0], hidden[0][::-1], sizes_of_outputs)
        upper = [
            (
                GaussianNetwork(below, sizes, above, log_std_bounds=bounds),
                GaussianNetwork(above, sizes[::-1], below, log_std_bounds=bounds),
            )
            for below, above, sizes in zip(latent_dims, latent_dims[1:], hidden[1:], strict=False)
        ]
        for network in (encoder, decoder, *(module for pair in upper for module in pair)):
            glorot(network)
        start_at_mean(likelihood, data_dim, data_mean, lambda name: decoder.layer(name).bias)
        super().__init__(
            encoder,
            decoder,
            likelihood,
            upper=upper,
            prior=prior,
            latent_dim=latent_dims[-1],
            validate=validate,
            backend=backend,
        )
        self.data_dim: int = data_dim
        self.log_std_bounds: tuple[float, float] | None = bounds
        self.latent_dims: tuple[int, ...] = latent_dims
        self.hidden_dims: tuple[tuple[int, ...], ...] = hidden

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "backend":
            for module in self.modules():
                if isinstance(module, DenseLayer):
                    module.backend = value


def glorot(network: nn.Module) -> None:
    """Initialize every linear layer with Glorot-uniform weights and zero biases."""
    for module in network.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


@torch.no_grad()
def start_at_mean(
    likelihood: Likelihood, data_dim: int, data_mean: Tensor | None, bias_of: Callable[[str], Tensor]
) -> None:
    """Set the biases of the decoder's outputs so that E[x | z] is initially the mean of the data."""
    if data_mean is None:
        return
    if data_mean.shape != (data_dim,):
        raise ValueError(f"data_mean must be ({data_dim},), got {tuple(data_mean.shape)}")
    for name, bias in likelihood.initial_biases(data_mean).items():
        bias_of(name).copy_(bias)


def _hidden_by_layer(
    hidden_dims: Sequence[int] | Sequence[Sequence[int]] | None, layers: int
) -> tuple[tuple[int, ...], ...]:
    """Return the sizes of the deterministic layers below each stochastic layer."""
    if hidden_dims is None:
        return ((200, 200), *((100, 100),) * (layers - 1))
    if all(isinstance(size, int) for size in hidden_dims):
        hidden_dims = (hidden_dims,)  # type: ignore[assignment]
    hidden = tuple(tuple(sizes) for sizes in hidden_dims)  # type: ignore[arg-type]
    if len(hidden) != layers:
        raise ValueError(f"hidden_dims must hold one tuple per stochastic layer, {layers} in all, got {hidden_dims}")
    return hidden


class GaussianNetwork(nn.Module):
    """A network from observations or latents (N, ...), after ``transform`` if given, to mean and log standard
    deviation, each (N, Z).

    ``transform`` returns ``width`` columns, and is given the mask of observed features too if ``takes_mask`` is True.
    """

    def __init__(
        self,
        input_dim: int,
        hidden_dims: Sequence[int],
        output_dim: int,
        transform: Callable[..., Tensor] | None = None,
        *,
        width: int | None = None,
        takes_mask: bool = False,
        log_std_bounds: tuple[float, float] | None = None,
    ) -> None:
        super().__init__()
        self.input_dim = input_dim
        self.transform = transform
        self.takes_mask = takes_mask
        self.log_std_bounds = log_std_bounds
        sizes = (input_dim if width is None else width, *hidden_dims)
        self.hidden: nn.Sequential = tanh_layers(sizes)
        self.mean: DenseLayer = DenseLayer(sizes[-1], output_dim)
        self.log_std: DenseLayer = DenseLayer(sizes[-1], output_dim)

    def forward(self, value: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
        if value.shape[1:].numel() != self.input_dim:
            raise ValueError(f"x must have {self.input_dim} features per observation, got shape {tuple(value.shape)}")
        if self.transform is not None:
            value = self.transform(value, mask) if self.takes_mask else self.transform(value)
        hidden = self.hidden(as_parameters(self, value.flatten(1)))
        mean, log_std = heads(hidden, self.mean, self.log_std)
        return mean, bounded(log_std, self.log_std_bounds)


class DenseDecoder(LinearOutput):
    """A decoder from latents (N, Z) to the single output of a likelihood, (N, D)."""

    output: nn.Linear

    def __init__(self, latent_dim: int, hidden_dims: Sequence[int], data_dim: int) -> None:
        super().__init__()
        self.hidden: nn.Sequential = tanh_layers((latent_dim, *hidden_dims))
        self.output = nn.Linear((latent_dim, *hidden_dims)[-1], data_dim)

    def features(self, z: Tensor, *context: Tensor) -> Tensor:
        return self.hidden(z, *context)

    def layer(self, name: str) -> nn.Linear:
        """Return the last layer of the output of this name."""
        return self.output


class DenseDecoderOfSeveral(nn.Module):
    """A decoder from latents (N, Z) to several outputs of a likelihood, (N, D) each, in the order of ``sizes``."""

    def __init__(self, latent_dim: int, hidden_dims: Sequence[int], sizes: Mapping[str, int]) -> None:
        super().__init__()
        self.hidden: nn.Sequential = tanh_layers((latent_dim, *hidden_dims))
        width = (latent_dim, *hidden_dims)[-1]
        self.outputs: nn.ModuleDict = nn.ModuleDict({name: nn.Linear(width, size) for name, size in sizes.items()})

    def forward(self, z: Tensor) -> tuple[Tensor, ...]:
        hidden = self.hidden(z)
        return tuple(output(hidden) for output in self.outputs.values())

    def layer(self, name: str) -> nn.Linear:
        """Return the last layer of the output of this name."""
        layer = self.outputs[name]
        return layer  # type: ignore[return-value]


def dense_decoder(
    latent_dim: int, hidden_dims: Sequence[int], sizes: Mapping[str, int]
) -> DenseDecoder | DenseDecoderOfSeveral:
    """Build a decoder with one output layer per output of a likelihood."""
    if len(sizes) == 1:
        return DenseDecoder(latent_dim, hidden_dims, *sizes.values())
    return DenseDecoderOfSeveral(latent_dim, hidden_dims, sizes)


class DenseLayer(nn.Linear):
    """A dense layer, fused with its activation where a kernel is worth its call."""

    activation = "none"
    backend: str | None = None
    """The backend that the model forces, or None."""

    def forward(self, input: Tensor) -> Tensor:
        # A compiler fuses torch's own operations, and must not specialize its graph on the batch size.
        if torch.compiler.is_compiling() or self._is_small(input):
            return ACTIVATIONS[self.activation](super().forward(input))
        return linear_activation(input, self.weight, self.bias, self.activation, backend=self.backend)

    def _is_small(self, input: Tensor) -> bool:
        """Return True if the call of a kernel of the CPU would cost more than it saves."""
        return input.is_cpu and self.backend is None and len(input) * self.out_features < WORTH_A_KERNEL


def heads(hidden: Tensor, *layers: DenseLayer) -> tuple[Tensor, ...]:
    """Return the results of linear layers of one input, in one op where kernels have it and every layer is certain to
    compute its product and nothing else."""
    plain = all(type(layer) is DenseLayer and "forward" not in vars(layer) and runs_forward(layer) for layer in layers)
    first = layers[0]
    if not plain or torch.compiler.is_compiling() or first._is_small(hidden):
        return tuple(layer(hidden) for layer in layers)
    biases = [layer.bias for layer in layers if layer.bias is not None]
    return linear_heads(hidden, [layer.weight for layer in layers], biases, backend=first.backend)


class TanhLayer(DenseLayer):
    """A dense layer with tanh."""

    activation = "tanh"


def tanh_layers(sizes: Sequence[int]) -> nn.Sequential:
    return nn.Sequential(*(TanhLayer(inputs, outputs) for inputs, outputs in pairwise(sizes)))
