"""The interface of backends with kernels."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, Protocol

import torch
from torch import Tensor

from ..reference import ScaleFactors
from ..reference.adam import AdamExtras, AdamSettings, AdamTensors


class Ops(Protocol):
    """The fused operations, forward and backward, on the tensors of one type of device.

    Densities and losses are generic: ``name`` is a density of :data:`iwae_fast.reference.DENSITIES`, and ``parameters``
    are its tensors in that order, whose shapes broadcast to (..., D). Results have the accumulation dtype of the call.
    Backward passes return only the gradients selected by ``needs_grad``, each in the shape and dtype of its input.
    Arguments are checked by the public functions (:mod:`iwae_fast.ops`), not by these methods. The methods that
    :class:`WithoutOptionalOps` defines are optional.
    """

    def density(self, name: str, parameters: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        """Return the log-density summed over the last axis, (...)."""

    def density_backward(
        self, name: str, grad: Tensor, parameters: Sequence[Tensor], mask: Tensor | None, needs_grad: Sequence[bool]
    ) -> list[Tensor]:
        """Return the gradients of the parameters."""

    def iwae_loss(
        self, name: str, parameters: Sequence[Tensor], log_ratio: Tensor, mask: Tensor | None, reduction: str
    ) -> tuple[Tensor, Tensor]:
        """Return the reduced loss, and the normalized weights (k, ...) that its gradient needs."""

    def iwae_loss_backward(
        self,
        name: str,
        grad: Tensor,
        weights: Tensor,
        parameters: Sequence[Tensor],
        mask: Tensor | None,
        reduction: str,
        needs_grad: Sequence[bool],
    ) -> list[Tensor]:
        """Return the gradients of the parameters, then that of the log-ratio (in the dtype of the weights)."""

    def iwae_loss_and_gradients(
        self,
        name: str,
        parameters: Sequence[Tensor],
        log_ratio: Tensor,
        mask: Tensor | None,
        reduction: str,
        needs_grad: Sequence[bool],
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Return the loss, the bounds (...), the weights, and the parameters' gradients for an upstream gradient of 1.

        A parameter that needs a gradient has the shape of the whole call, (k, ..., D).
        """

    def log_mean_exp(self, log_weights: Tensor, dim: int) -> Tensor:
        """Return logsumexp over ``dim`` minus log k."""

    def log_mean_exp_backward(self, grad: Tensor, log_weights: Tensor, dim: int) -> Tensor:
        """Return the gradient of the log-weights."""

    def weight_scales(
        self, terms: Sequence[Tensor], kl_weight: float, factors: ScaleFactors, reduction: str
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        """Return the loss, the bounds (...), the log-weights (k, ...) and the scales, each (k, ...), of
        :func:`iwae_fast.reference.weight_scales`."""

    def scaled_gradients(self, scales: Sequence[Tensor], grad: Tensor, factors: Sequence[float]) -> list[Tensor]:
        """Return each scale (k, ...) times its factor and an upstream gradient, a number or (...): 0 where that is 0.

        The scales are contiguous.
        """

    def select_samples(
        self,
        decoder: Tensor,
        encoder: Tensor,
        seed: Tensor,
        budget: int,
        observation_offset: int,
        stream: int,
        rounding: float,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return the samples (m, B) int64 that a budget chooses by scales (k, B), their scales in decoder and encoder,
        the ratio of these, each (m, B), and the number of samples with a nonzero scale, (B,) int64."""

    def standard_normal(
        self,
        seed: Tensor,
        samples: Tensor | None,
        shape: Sequence[int],
        sample_offset: int,
        observation_offset: int,
        stream: int,
        dtype: torch.dtype,
    ) -> Tensor:
        """Return noise of this shape."""

    def sample_gaussian(
        self,
        mean: Tensor,
        log_std: Tensor,
        seed: Tensor,
        samples: Tensor | None,
        num_samples: int,
        sample_offset: int,
        observation_offset: int,
        stream: int,
    ) -> tuple[Tensor, Tensor]:
        """Return z (k, B, Z) and the log-ratio (k, B)."""

    def sample_gaussian_backward(
        self,
        grad_z: Tensor | None,
        grad_log_ratio: Tensor | None,
        mean: Tensor,
        log_std: Tensor,
        seed: Tensor,
        samples: Tensor | None,
        num_samples: int,
        sample_offset: int,
        observation_offset: int,
        stream: int,
        path_only: bool,
    ) -> tuple[Tensor, Tensor]:
        """Return the gradients of mean and log_std."""

    def linear_bernoulli_log_prob(
        self, value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        """Return the log-probability of values under a linear layer's logits."""

    def linear_bernoulli_log_prob_backward(
        self,
        grad: Tensor,
        value: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mask: Tensor | None,
        needs_grad: Sequence[bool],
    ) -> list[Tensor]:
        """Return the gradients of value, hidden, weight and bias."""

    def linear_bernoulli_log_prob_and_residual(
        self, value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the log-probability, value - sigmoid(logits), from which its gradients follow, and the log-probability
        again, in memory of its own: a user may change a result in place."""

    def linear_bernoulli_iwae_loss(
        self,
        value: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        log_ratio: Tensor,
        mask: Tensor | None,
        reduction: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the loss, the bounds (...), the normalized weights, and the gradient of the logits."""

    def linear_activation(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, activation: str, keep: bool
    ) -> list[Tensor]:
        """Return activation(hidden @ weight.T + bias) and, if ``keep``, the activation's input.

        ``activation`` is one of :data:`iwae_fast.reference.activations.ACTIVATIONS` that ``layer_activations`` has for
        the dtype of the three tensors.
        """

    def linear_activation_backward(
        self,
        grad: Tensor,
        kept: Tensor | None,
        hidden: Tensor,
        weight: Tensor,
        activation: str,
        needs_grad: Sequence[bool],
        coefficient: Tensor | None = None,
        result: Tensor | None = None,
    ) -> list[Tensor]:
        """Return the gradients of hidden, weight and bias.

        ``kept`` is the activation's input for those of :data:`iwae_fast.reference.activations.FROM_INPUT`, else its
        output; it is not read if there is no activation. Then ``coefficient``, one number per row, contiguous, may
        multiply the rows of ``grad``. A row whose coefficient is 0 contributes nothing, whatever its entries; any other
        one contributes NaN where ``result``, which has one number per row, is NaN.
        """

    def linear_heads(self, hidden: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> list[Tensor]:
        """Return hidden @ weight.T + bias for each weight; there is one bias per weight, or none."""

    def linear_heads_backward(
        self, grads: Sequence[Tensor], hidden: Tensor, weights: Sequence[Tensor], needs_grad: Sequence[bool]
    ) -> list[Tensor]:
        """Return the gradients of hidden, of each weight and, if there are biases, of each bias."""

    def rescale(self, gradient: Tensor, grad: Tensor, weights: Tensor) -> None:
        """Multiply a gradient (k, ..., D), computed for an upstream gradient of 1, by the actual one, in place.

        Entries whose weight is 0 become 0. Whether the factor is 1 is checked on the device, without a synchronization.
        """

    def adam(self, tensors: AdamTensors, settings: AdamSettings, extras: AdamExtras, turns: Tensor) -> None:
        """Take a step of Adam, in place.

        Each parameter, its gradient and its state are one block of memory with the same layout. ``extras`` are float32,
        its squares float64. ``turns`` is an int32 scalar on the device, 0 before and after, which no other step may use
        at the same time.
        """

    def sum_squares(self, gradients: Sequence[Tensor]) -> Tensor:
        """Return float64 numbers, (n,), whose sum is that of the squares of all gradients, which have one dtype."""


class Backend(Ops, Protocol):
    """Operations on one type of device, and their availability on this machine."""

    device: str
    """The device type whose tensors the backend supports: "cpu" or "cuda"."""
    optional_ops: frozenset[str]
    """The optional operations that this backend implements, by the names of their methods."""
    rounded_gradients: frozenset[torch.dtype]
    """The dtypes, besides that of accumulation, of parameters whose gradients ``iwae_loss_and_gradients`` computes.
    They are rounded before they are scaled by the upstream gradient."""
    layer_activations: Mapping[torch.dtype, Collection[str]]
    """The activations that ``linear_activation`` has, by the dtype of the layer."""

    def missing(self) -> str | None:
        """Return the software that the backend lacks, or None.

        Called once: for the package's own backends when it is imported, for others by
        :func:`iwae_fast.backends.register`. Must not access a device.
        """

    def unavailable(self) -> str | None:
        """Return the reason why the backend cannot run on this machine, or None."""

    def details(self) -> dict[str, Any]:
        """Return further entries for :func:`iwae_fast.backends.info`."""


def members() -> list[str]:
    """Return the names of all members of a :class:`Backend`."""
    return [name for part in (Backend, Ops) for name in (*part.__annotations__, *vars(part)) if name[0] != "_"]


class WithoutOptionalOps:
    """A base class for backends that do not implement some or all of the optional operations."""

    optional_ops: frozenset[str] = frozenset()
    rounded_gradients: frozenset[torch.dtype] = frozenset()
    layer_activations: Mapping[torch.dtype, Collection[str]] = MappingProxyType({})

    def iwae_loss_and_gradients(self, *arguments: Any, **options: Any) -> Any:
        raise _not_offered(self, "iwae_loss_and_gradients")

    def linear_bernoulli_log_prob_and_residual(self, *arguments: Any, **options: Any) -> Any:
        raise _not_offered(self, "linear_bernoulli_log_prob_and_residual")

    def linear_bernoulli_iwae_loss(self, *arguments: Any, **options: Any) -> Any:
        raise _not_offered(self, "linear_bernoulli_iwae_loss")

    def linear_activation(self, *arguments: Any, **options: Any) -> Any:
        raise _not_offered(self, "linear_activation")

    def linear_activation_backward(self, *arguments: Any, **options: Any) -> Any:
        raise _not_offered(self, "linear_activation_backward")

    def linear_heads(self, *arguments: Any, **options: Any) -> Any:
        raise _not_offered(self, "linear_heads")

    def linear_heads_backward(self, *arguments: Any, **options: Any) -> Any:
        raise _not_offered(self, "linear_heads_backward")

    def weight_scales(self, *arguments: Any, **options: Any) -> Any:
        raise _not_offered(self, "weight_scales")

    def scaled_gradients(self, *arguments: Any, **options: Any) -> Any:
        raise _not_offered(self, "scaled_gradients")

    def select_samples(self, *arguments: Any, **options: Any) -> Any:
        raise _not_offered(self, "select_samples")

    def rescale(self, *arguments: Any, **options: Any) -> None:
        raise _not_offered(self, "rescale")

    def adam(self, *arguments: Any, **options: Any) -> None:
        raise _not_offered(self, "adam")

    def sum_squares(self, *arguments: Any, **options: Any) -> Any:
        raise _not_offered(self, "sum_squares")


def _not_offered(backend: object, op: str) -> NotImplementedError:
    return NotImplementedError(f"{type(backend).__name__} does not have the optional operation {op}")
