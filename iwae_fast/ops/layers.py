"""Dense layers: one with its activation, or several linear ones of the same input."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import checks
from ..backends import NATIVE, REFERENCE, choose
from ..checks import autocast_dtype
from ..reference.activations import ACTIVATIONS, FROM_INPUT
from .function import Fused, applied, backward_pass, implementation, saved, scatter_gradients, supports


def linear_activation(
    hidden: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str = "tanh",
    *,
    backend: str | None = None,
) -> Tensor:
    """Compute activation(hidden @ weight.T + bias), a dense layer.

    On a GPU, Triton's kernels compute it in one launch and all of its gradients in another, where they are chosen
    (docs/performance.md says when). On the CPU a layer with tanh in float32 or float64 has kernels around torch's
    matrix product: bias and tanh in one pass, and the gradient before the tanh with its sum in one pass. Other layers
    are torch's own operations.

    Args:
        hidden: (..., H).
        weight, bias: (M, H) and (M,), as in ``nn.Linear``, with the dtype of ``hidden``. Under autocast all three are
            cast like the arguments of a linear layer.
        activation: "none", "tanh", "relu", "gelu" (with the error function) or "silu".
        backend: force a backend by name.

    Returns:
        (..., M), with the dtype of ``hidden``.
    """
    check_layer(hidden, weight, bias)
    function = ACTIVATIONS[checks.one_of("activation", activation, ACTIVATIONS)]
    chosen = layer_backend(backend, activation, hidden, weight, bias)
    if chosen is None:
        return function(F.linear(hidden, weight, bias))
    if (cast := autocast_dtype(hidden.device)) is not None:
        hidden, weight, bias = hidden.to(cast), weight.to(cast), None if bias is None else bias.to(cast)
    keep = activation in FROM_INPUT and torch.is_grad_enabled()
    output, *_ = applied(LinearActivation)(chosen, activation, keep, hidden, weight, bias)
    return output


def layer_backend(
    backend: str | None, activation: str, hidden: Tensor, weight: Tensor, bias: Tensor | None
) -> str | None:
    """Return the backend whose ``linear_activation`` serves a layer, or None if torch does."""
    chosen = choose(backend, (hidden, weight, bias), "linear_activation", (*hidden.shape[:-1], len(weight)))
    if chosen == REFERENCE:
        return None
    dtypes = {tensor.dtype for tensor in (hidden, weight, bias) if tensor is not None}
    dtype = autocast_dtype(hidden.device) or (hidden.dtype if len(dtypes) == 1 else None)
    activations = NATIVE[chosen].layer_activations
    return chosen if dtype is not None and activation in activations.get(dtype, ()) else None


def linear_heads(
    hidden: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *, backend: str | None = None
) -> tuple[Tensor, ...]:
    """Compute hidden @ weight.T + bias for several linear layers of one input, such as the heads of an encoder.

    Triton's kernels compute all of them in one launch, and all of their gradients in another, which adds up those of
    ``hidden`` without a further one. Elsewhere each is a :func:`linear_activation`.

    Args:
        hidden: (..., H).
        weights, biases: (M, H) and (M,) per layer, as in ``nn.Linear``, with the dtype of ``hidden``; no biases, or one
            per weight. Under autocast all are cast like the arguments of a linear layer.
        backend: force a backend by name.

    Returns:
        (..., M) per layer, with the dtype of ``hidden``.

    Raises:
        TypeError, ValueError: a layer's arguments are not those of a linear layer, there are no weights, or their
            number is not that of the biases.
    """
    if not weights or len(biases) not in (0, len(weights)):
        raise ValueError(f"expected at least one weight and as many biases or none, got {len(weights)}, {len(biases)}")
    layers = list(zip(weights, biases or [None] * len(weights), strict=True))
    for layer in layers:
        check_layer(hidden, *layer)
    chosen = {layer_backend(backend, "none", hidden, *layer) for layer in layers}
    serving = chosen.pop()
    if chosen or serving is None or not supports("linear_heads", serving):
        return tuple(linear_activation(hidden, *layer, "none", backend=backend) for layer in layers)
    tensors = [hidden, *weights, *biases]
    if (cast := autocast_dtype(hidden.device)) is not None:
        tensors = [tensor.to(cast) for tensor in tensors]
    results: tuple[Tensor, ...] = applied(LinearHeads)(serving, len(weights), *tensors)
    return results


def check_layer(hidden: Tensor, weight: Tensor, bias: Tensor | None, **others: Tensor) -> None:
    """Raise unless the arguments are those of a linear layer, with others on the same device."""
    checks.floating(**others, hidden=hidden, weight=weight, **({} if bias is None else {"bias": bias}))
    if weight.dim() != 2 or hidden.dim() == 0 or hidden.shape[-1] != weight.shape[1]:
        raise ValueError(f"hidden {tuple(hidden.shape)} and weight {tuple(weight.shape)} must be (..., H) and (D, H)")
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias must be ({weight.shape[0]},) as weight {tuple(weight.shape)}, got {tuple(bias.shape)}")


class LinearActivation(Fused):
    """The Function of :func:`linear_activation`, which also returns the activation's input if it is kept."""

    @staticmethod
    def forward(
        backend: str, activation: str, keep: bool, hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, ...]:
        return tuple(implementation(backend).linear_activation(hidden, weight, bias, activation, keep))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.backend, ctx.activation, _, hidden, weight, _ = inputs
        ctx.mark_non_differentiable(*output[1:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(None if ctx.activation == "none" else output[-1], hidden, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        needs_grad = list(ctx.needs_input_grad[3:])
        gradients = backward_pass(
            "linear_activation",
            layer_backward,
            (grad,),
            *saved(ctx),
            ctx.activation,
            needs_grad,
            None,
            None,
            ctx.backend,
        )
        return None, None, None, *scatter_gradients(gradients, needs_grad)


def layer_backward(grad: Tensor, *arguments: Any) -> Sequence[Tensor]:
    *others, backend = arguments
    return implementation(backend).linear_activation_backward(grad, *others)


class LinearHeads(Fused):
    """The Function of :func:`linear_heads`, of hidden, the weights and the biases."""

    @staticmethod
    def forward(backend: str, count: int, hidden: Tensor, *layers: Tensor) -> tuple[Tensor, ...]:
        return tuple(implementation(backend).linear_heads(hidden, list(layers[:count]), list(layers[count:])))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.backend, ctx.count, hidden, *layers = inputs
        ctx.save_for_backward(hidden, *layers[: ctx.count])

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        needs_grad = list(ctx.needs_input_grad[2:])
        gradients = backward_pass(
            "linear_heads", _heads_backward, grads, *saved(ctx), needs_grad, ctx.count, ctx.backend
        )
        return None, None, *scatter_gradients(gradients, needs_grad)


def _heads_backward(*arguments: Any) -> Sequence[Tensor]:
    *tensors, needs_grad, count, backend = arguments
    grads, hidden, weights = tensors[:count], tensors[count], tensors[count + 1 :]
    return implementation(backend).linear_heads_backward(grads, hidden, weights, needs_grad)
