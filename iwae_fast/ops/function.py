"""Autograd Functions of the operations: how they are applied, and what their backward passes share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..backends import NATIVE
from ..backends.marshal import PLAIN
from .registry import is_tracing, supports


def apply(function: type[Function], *arguments: Any) -> Any:
    """``function.apply``, without what torch's own costs a call: tens of microseconds for the inspection of signatures,
    and ten more for a node where there is no graph.

    A compiler is not shown a Function that records no graph: it would mistake the first argument of ``forward`` for a
    context.
    """
    if torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    if not torch.is_grad_enabled():
        return function.forward(*arguments)
    if not torch.compiler.is_compiling():
        return super(Function, function).apply(*arguments)  # type: ignore[misc]
    if any(isinstance(argument, Tensor) and argument.requires_grad for argument in arguments):
        return function.apply(*arguments)
    return function.forward(*arguments)


def saved(ctx: Any) -> tuple[Any, ...]:
    """Return the saved tensors, each as the plain tensor that it is by now.

    After ``torch.func.vjp`` has returned, what it saved is still wrapped for a transform that is over. Torch's own
    operations look through that; the pointer of such a tensor does not exist.
    """
    if torch.compiler.is_compiling():
        return ctx.saved_tensors
    unwrap = torch._C._functorch.unwrap_if_dead
    return tuple(None if tensor is None else unwrap(tensor) for tensor in ctx.saved_tensors)


def is_host_readable(tensor: Tensor) -> bool:
    """Return True where the tensor's values can be read without synchronizing with a device.

    Modes of the dispatcher that run operations for real, such as counters of memory, do not stand in the way.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return type(tensor) in PLAIN and tensor.device.type == "cpu"


def host_value(grad: Tensor) -> float:
    """Return a scalar gradient as a number; NaN where it is not a scalar, or cannot be read."""
    return math.nan if grad.dim() or not is_host_readable(grad) else grad.item()


def last_pass() -> bool:
    """Return True where the tensors saved for this backward pass may be handed out: no later pass reads them."""
    return not torch._C._autograd._get_current_graph_task_keep_graph()


def times_upstream(
    ctx: Any, saved_gradients: list[Tensor], grad: Tensor, number: float, weights: Tensor
) -> list[Tensor]:
    """Multiply gradients (k, ..., D), made in the forward pass for an upstream gradient of 1, by the actual one."""
    if number == 1.0 and last_pass():
        return saved_gradients
    if not is_tracing() and supports("rescale", ctx.backend):  # checks on the device whether the factor is 1
        saved_gradients = saved_gradients if last_pass() else [gradient.clone() for gradient in saved_gradients]
        for gradient in saved_gradients:
            NATIVE[ctx.backend].rescale(gradient, grad, weights)
        return saved_gradients
    upstream = grad.unsqueeze(-1) if grad.dim() else grad
    return [product_without_nan(gradient, upstream, weights.unsqueeze(-1)) for gradient in saved_gradients]


def log_ratio_gradient(ctx: Any, weights: Tensor, grad: Tensor, number: float) -> Tensor:
    """Return minus the normalized weights (divided by their number for a mean), times the upstream gradient."""
    if number == 0.0:
        return torch.zeros_like(weights, dtype=ctx.log_ratio_dtype)
    share = 1.0 / max(weights[0].numel(), 1) if ctx.reduction == "mean" else 1.0
    if math.isfinite(number):
        return (weights * (-share * number)).to(ctx.log_ratio_dtype)
    (gradient,) = times_upstream(ctx, [(weights * -share).unsqueeze(-1)], grad, number, weights)
    return gradient.squeeze(-1).to(ctx.log_ratio_dtype)


def product_without_nan(gradient: Tensor, grad: Tensor, weights: Tensor) -> Tensor:
    """Return gradient * grad, and 0 where the weight or the upstream gradient is 0, whatever the other factor."""
    product = gradient * grad
    if not is_host_readable(grad) or not (grad.isfinite() & (grad != 0)).all():
        product = torch.where((weights == 0) | (grad == 0), 0.0, product)
    return product


def once(gradients: tuple[Tensor | None, ...], anchor: Tensor) -> tuple[Tensor | None, ...]:
    """Wrap gradients so that differentiating them again raises.

    ``anchor`` is an output of the Function that its caller does not hand out. The result itself cannot be saved, since
    users may change it in place, as in ``loss /= 4``.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return gradients
    return tuple(None if g is None else apply(NotTwiceDifferentiable, g, anchor) for g in gradients)


def scatter_gradients(gradients: Sequence[Tensor], needs_grad: Sequence[bool]) -> list[Tensor | None]:
    """Return the gradients in the positions of the inputs that need one, and None in the others."""
    remaining = iter(gradients)
    return [next(remaining) if needed else None for needed in needs_grad]


def backward_pass(
    name: str, function: Callable[..., Sequence[Tensor]], grads: tuple[Tensor | None, ...], *arguments: Any
) -> Sequence[Tensor]:
    """Return the gradients ``function(*grads, *arguments)`` of an op, which raise if they are differentiated again.

    ``function`` must take every tensor through its arguments: torch.func.vmap may batch them.
    """
    inputs = (name, function, len(grads), *grads, *arguments)
    if torch.compiler.is_compiling():
        return _BackwardPass.forward(*inputs)
    # create_graph=True and torch.func.grad differentiate what happens here; vmap may batch it.
    return apply(_BackwardPass, *inputs)


def with_memory(grad: Tensor) -> Tensor:
    """Materialize a lazily negated or zero gradient, as autograd may hand over."""
    if torch.compiler.is_compiling():
        return grad
    if torch._C._functorch.is_legacy_batchedtensor(grad):
        raise RuntimeError("is_grads_batched and vectorize=True need backend='reference'; torch.func.jacrev does not")
    if grad.is_neg() or grad._is_zerotensor():
        return grad.resolve_neg().clone()
    return grad


class Fused(Function):
    """A Function of an op that takes no batch, which ``torch.func.vmap`` runs element by element."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        """Run element by element: batches of upstream gradients serve Jacobians, which are rare. Torch requires this to
        be defined even where nothing is batched."""
        results = [
            cls.apply(
                *(
                    a.select(dim, i) if isinstance(a, Tensor) and dim is not None else a
                    for a, dim in zip(arguments, in_dims, strict=True)
                )
            )
            for i in range(info.batch_size)
        ]
        if isinstance(results[0], Tensor):
            return torch.stack(results), 0
        stacked = tuple(torch.stack(column) for column in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)


class NotTwiceDifferentiable(Function):
    """A gradient whose own derivatives are not implemented, and raise."""

    generate_vmap_rule = True

    @staticmethod
    def forward(gradient: Tensor, *others: Tensor) -> Tensor:
        return gradient.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        raise RuntimeError(
            "second derivatives of fused ops and of gradient estimators do not exist; of an op they do "
            "with backend='reference'"
        )


class _BackwardPass(Fused):
    """A backward pass that cannot be differentiated.

    It depends on everything the gradient depends on, so a second derivative raises. With ``once_differentiable``
    it would silently be zero wherever the upstream gradient is a constant.
    """

    @staticmethod
    def forward(
        name: str, function: Callable[..., Sequence[Tensor]], count: int, *arguments: Any
    ) -> tuple[Tensor, ...]:
        """Run the function; its arguments are the upstream gradients, ``count`` of them, then all others."""
        grads = [None if grad is None else with_memory(grad) for grad in arguments[:count]]
        return tuple(function(*grads, *arguments[count:]))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(f"{ctx.name}: second derivatives of fused ops do not exist; use backend='reference'")
