"""Autograd Functions of the operations: their application, and shared parts of their backward passes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..backends import NATIVE
from ..backends.base import Ops
from ..backends.marshal import PLAIN
from ..reference import widen
from ..reference.apply import applied as applied
from .registry import RegisteredOps


def implementation(backend: str) -> Ops:
    """Return the backend of this name, or while tracing its registered ops."""
    return RegisteredOps(backend) if is_tracing() else NATIVE[backend]


def is_tracing() -> bool:
    """Return True while torch compiles or traces, or inside a torch.func transform: tensor values are not readable.

    Only the dispatcher can then turn the tensors into plain ones.
    """
    return bool(
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack()
        or torch._C._are_functorch_transforms_active()
    )


def supports(op: str, backend: str) -> bool:
    """Return True if the backend implements an optional op."""
    return op in NATIVE[backend].optional_ops


def saved(ctx: Any) -> tuple[Any, ...]:
    """Return the saved tensors as plain tensors.

    After ``torch.func.vjp`` has returned, saved tensors are still wrapped for a transform that is over. Torch's own
    operations unwrap them; such a tensor does not have a data pointer.
    """
    if torch.compiler.is_compiling():
        return ctx.saved_tensors
    unwrap = torch._C._functorch.unwrap_if_dead
    return tuple(None if tensor is None else unwrap(tensor) for tensor in ctx.saved_tensors)


def is_host_readable(tensor: Tensor) -> bool:
    """Return True if the tensor's values can be read without a device synchronization.

    Dispatch modes that execute operations, such as memory counters, do not prevent it.
    """
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return False
    return type(tensor) in PLAIN and tensor.is_cpu


def host_value(grad: Tensor) -> float:
    """Return a scalar gradient as a number; NaN if it is not a scalar or cannot be read."""
    return math.nan if grad.dim() or not is_host_readable(grad) else grad.item()


def last_pass() -> bool:
    """Return True if tensors saved for this backward pass may be returned as gradients: no later pass reads them."""
    return not torch._C._autograd._get_current_graph_task_keep_graph()


def times_upstream(
    ctx: Any, saved_gradients: list[Tensor], grad: Tensor, number: float, weights: Tensor
) -> list[Tensor]:
    """Multiply gradients (k, ..., D), saved in the forward pass for an upstream gradient of 1, by the actual one."""
    if number == 1.0 and last_pass():
        return saved_gradients
    if not is_tracing() and supports("rescale", ctx.backend):  # checks on the device whether the factor is 1
        saved_gradients = saved_gradients if last_pass() else [gradient.clone() for gradient in saved_gradients]
        for gradient in saved_gradients:
            NATIVE[ctx.backend].rescale(gradient, grad, weights)
        return saved_gradients
    upstream = grad.unsqueeze(-1) if grad.dim() else grad
    scaled = (product_without_nan(gradient, upstream, weights.unsqueeze(-1)) for gradient in saved_gradients)
    return [product.to(gradient.dtype) for product, gradient in zip(scaled, saved_gradients, strict=True)]


def log_ratio_gradient(ctx: Any, weights: Tensor, grad: Tensor, number: float) -> Tensor:
    """Return minus the normalized weights (divided by their number for a mean), times the upstream gradient."""
    if number == 0.0:
        return torch.zeros_like(weights, dtype=ctx.log_ratio_dtype)
    share = 1.0 / max(weights.numel() // len(weights), 1) if ctx.reduction == "mean" else 1.0
    if math.isfinite(number):
        gradient = weights * (-share * number)
        return gradient if gradient.dtype is ctx.log_ratio_dtype else gradient.to(ctx.log_ratio_dtype)
    gradient = weights * -share
    if not is_tracing() and supports("rescale", ctx.backend):
        NATIVE[ctx.backend].rescale(gradient.unsqueeze(-1), grad, weights)
    else:
        gradient = product_without_nan(gradient, grad, weights)
    return gradient if gradient.dtype is ctx.log_ratio_dtype else gradient.to(ctx.log_ratio_dtype)


def product_without_nan(gradient: Tensor, grad: Tensor, weights: Tensor) -> Tensor:
    """Return gradient * grad, and 0 where the weight or the upstream gradient is 0, regardless of the other factor."""
    product = gradient * grad
    if not is_host_readable(grad) or not (grad.isfinite() & (grad != 0)).all():
        product = torch.where((weights == 0) | (grad == 0), 0.0, product)
    return product


def once(gradients: tuple[Tensor | None, ...], anchor: Tensor) -> tuple[Tensor | None, ...]:
    """Wrap gradients so that differentiating them again raises.

    The gradients of a Function that computed them in its forward pass do not depend on its inputs, so differentiating
    them would silently give zero. ``anchor`` is a differentiable output of that Function, on which they are made to
    depend. It must not be returned to the user: users may change a result in place, as in ``loss /= 4``.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return gradients
    return tuple(None if g is None else applied(NotTwiceDifferentiable)(g, anchor) for g in gradients)


def scatter_gradients(gradients: Sequence[Tensor], needs_grad: Sequence[bool]) -> list[Tensor | None]:
    """Return the gradients in the positions of the inputs that need one, and None in the others."""
    remaining = iter(gradients)
    return [next(remaining) if needed else None for needed in needs_grad]


def backward_pass(
    name: str, function: Callable[..., Sequence[Tensor]], grads: tuple[Tensor | None, ...], *arguments: Any
) -> Sequence[Tensor]:
    """Return the gradients ``function(*grads, *arguments)`` of an op, which raise if they are differentiated again.

    ``function`` must receive every tensor as an argument: torch.func.vmap may batch them.
    """
    inputs = (name, function, len(grads), *grads, *arguments)
    if torch.compiler.is_compiling():
        return _BackwardPass.forward(*inputs)
    # create_graph=True and torch.func.grad differentiate this Function; vmap may batch it.
    return applied(_BackwardPass)(*inputs)


def with_memory(grad: Tensor) -> Tensor:
    """Materialize a lazily negated or zero gradient, which autograd may pass."""
    if torch.compiler.is_compiling():
        return grad
    if torch._C._functorch.is_legacy_batchedtensor(grad):
        raise RuntimeError("is_grads_batched and vectorize=True need backend='reference'; or use torch.func.jacrev")
    if grad.is_neg() or grad._is_zerotensor():
        return grad.resolve_neg().clone()
    return grad


class Fused(Function):
    """A Function of an op without a batching rule, which ``torch.func.vmap`` runs element by element."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        """Run element by element: batches of upstream gradients occur only for Jacobians, which are rare.

        Torch requires this method even if nothing is batched.
        """
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
    """A copy of a gradient whose derivatives are not implemented and raise RuntimeError."""

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
            "second derivatives of fused ops and of gradient estimators are not implemented; those of an op are with "
            "backend='reference'"
        )


class _BackwardPass(Fused):
    """A backward pass that cannot be differentiated.

    It depends on all inputs of the gradient, so that a second derivative raises. With ``once_differentiable`` the
    second derivative would silently be zero where the upstream gradient is a constant.
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
        raise RuntimeError(f"{ctx.name}: second derivatives of fused ops are not implemented; use backend='reference'")


def same_features(size: int, parameters: dict[str, Tensor]) -> list[Tensor]:
    """Expand the parameters to the same last axis: native ops broadcast only leading axes."""
    return [p if p.shape[-1] == size else expand(p, (*p.shape[:-1], size)) for p in parameters.values()]


def expand(tensor: Tensor, shape: tuple[int, ...]) -> Tensor:
    """Expand a tensor such that its gradient is summed over the expanded axes before rounding to half precision."""
    (tensor,) = widen(tensor)
    return tensor.expand(shape)
