"""How Functions are applied, and what their backward passes share."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..backends import NATIVE
from . import registry as ops


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


def stands_in() -> bool:
    """Whether tensors may stand for others, whose numbers cannot be looked at."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def may_look(tensor: Tensor) -> bool:
    """Whether its numbers can be looked at, and at no cost: nobody waits for a GPU."""
    return not stands_in() and tensor.device.type == "cpu"


def number_of(grad: Tensor) -> float:
    """A scalar gradient as a number; NaN where it is no scalar, or its number is not to be looked at."""
    return math.nan if grad.dim() or not may_look(grad) else grad.item()


def last_pass() -> bool:
    """Whether what was kept for the backward pass may be given away: no later pass reads it again."""
    return not torch._C._autograd._get_current_graph_task_keep_graph()


def for_incoming(ctx: Any, kept: list[Tensor], grad: Tensor, number: float, weights: Tensor) -> list[Tensor]:
    """Gradients (k, ..., D) that the forward pass made for an incoming one of 1, times the one that came."""
    if number == 1.0 and last_pass():
        return kept
    if not ops.traced_or_transformed() and ops.offered("rescale", ctx.backend):  # which sees for itself whether it is 1
        kept = kept if last_pass() else [k.clone() for k in kept]
        for gradient in kept:
            NATIVE[ctx.backend].rescale(gradient, grad, weights)
        return kept
    incoming = grad.unsqueeze(-1) if grad.dim() else grad
    return [weighed(k, incoming, weights.unsqueeze(-1)) for k in kept]


def log_ratio_gradient(ctx: Any, weights: Tensor, grad: Tensor, number: float) -> Tensor:
    """Return minus the normalized weights, shared out by a mean, times the incoming gradient or its number."""
    if number == 0.0:
        return torch.zeros_like(weights, dtype=ctx.log_ratio_dtype)
    share = 1.0 / max(weights[0].numel(), 1) if ctx.reduction == "mean" else 1.0
    if math.isfinite(number):
        return (weights * (-share * number)).to(ctx.log_ratio_dtype)
    (gradient,) = for_incoming(ctx, [(weights * -share).unsqueeze(-1)], grad, number, weights)
    return gradient.squeeze(-1).to(ctx.log_ratio_dtype)


def weighed(kept: Tensor, grad: Tensor, weights: Tensor) -> Tensor:
    """Return kept * grad, and 0 where either the weight or the incoming gradient is, whatever the other factor."""
    product = kept * grad
    if not may_look(grad) or not (grad.isfinite() & (grad != 0)).all():
        product = torch.where((weights == 0) | (grad == 0), 0.0, product)
    return product


def once(gradients: tuple[Tensor | None, ...], anchor: Tensor) -> tuple[Tensor | None, ...]:
    """Return the same gradients, with second derivatives that raise.

    ``anchor`` is an output of the Function that its caller keeps to itself. The result will not do: what a user
    changes in place, as ``loss /= 4``, cannot have been saved.
    """
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return gradients
    return tuple(None if g is None else apply(Once, g, anchor) for g in gradients)


def place(gradients: list[Tensor] | tuple[Tensor, ...], needs: list[bool]) -> list[Tensor | None]:
    """Put the gradients that were computed in the places of the inputs that need one."""
    remaining = iter(gradients)
    return [next(remaining) if needed else None for needed in needs]


def gradients_of(ctx: Any, grads: tuple[Tensor | None, ...], *arguments: Any) -> list[Tensor] | tuple[Tensor, ...]:
    inputs = (ctx.name, ctx.backend, len(grads), *grads, *arguments)
    if torch.compiler.is_compiling():
        return _Gradients.forward(*inputs)
    # create_graph=True and torch.func.grad differentiate what happens here; vmap may batch it.
    return apply(_Gradients, *inputs)


def with_memory(grad: Tensor) -> Tensor:
    """The same gradient with its numbers in memory, where autograd hands over a lazily negated or zero tensor."""
    if torch.compiler.is_compiling():
        return grad
    if torch._C._functorch.is_legacy_batchedtensor(grad):
        raise RuntimeError("is_grads_batched and vectorize=True need backend='reference'; torch.func.jacrev does not")
    if grad.is_neg() or grad._is_zerotensor():
        return grad.resolve_neg().clone()
    return grad


class Fused(Function):
    """A Function that ``torch.func.vmap`` may pass: around an op that takes no batch."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[Any, Any]:
        """Run one by one: what a batch of incoming gradients is for, a Jacobian, is rare. Without any batch torch does
        not come here, but it asks that this be defined."""
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


class Once(Function):
    """A gradient that refuses to be differentiated: it depends on others in ways that nothing here follows."""

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


class _Gradients(Fused):
    """A backward pass that refuses to be differentiated.

    It depends on everything the gradient depends on, so a second derivative raises. With ``once_differentiable``
    it would silently be zero wherever the incoming gradient is a constant.
    """

    @staticmethod
    def forward(name: str, backend: str, count: int, *arguments: Any) -> tuple[Tensor, ...]:
        """``arguments`` are the incoming gradients, ``count`` of them, then what the op needs besides."""
        grads = [None if grad is None else with_memory(grad) for grad in arguments[:count]]
        gradients = ops.call(f"{name}_backward", *grads, *arguments[count:], backend=backend)
        return (gradients,) if isinstance(gradients, Tensor) else tuple(gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(f"{ctx.name}: second derivatives of fused ops do not exist; use backend='reference'")
