"""Autograd Functions around the native ops: forward keeps its inputs, backward is one native call.

``name`` and ``backend`` say which op runs where; neither they nor masks take a gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from . import ops


def apply(function: type[Function], *arguments: Any) -> Any:
    """``function.apply``, without the inspection of signatures that costs torch's own tens of microseconds a call."""
    if torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active():
        return function.apply(*arguments)
    return super(Function, function).apply(*arguments)  # type: ignore[misc]


class Density(Function):
    """log p(value | parameters), summed over the last axis."""

    @staticmethod
    def forward(name: str, backend: str, mask: Tensor | None, *parameters: Tensor) -> Tensor:
        return ops.call(name, *parameters, mask, backend=backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name, ctx.backend, mask, *parameters = inputs
        ctx.save_for_backward(mask, *parameters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        mask, *parameters = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[3:])
        gradients = _gradients(ctx, (grad,), *parameters, mask, needs)
        return None, None, None, *_place(gradients, needs)


class LogMeanExp(Function):
    """logsumexp over ``dim`` minus log k."""

    @staticmethod
    def forward(backend: str, log_weights: Tensor, dim: int) -> Tensor:
        return ops.call("log_mean_exp", log_weights, dim, backend=backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name = "log_mean_exp"
        ctx.backend, log_weights, ctx.dim = inputs
        ctx.save_for_backward(log_weights)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (log_weights,) = ctx.saved_tensors
        (gradient,) = _gradients(ctx, (grad,), log_weights, ctx.dim)
        return None, gradient, None


class IWAELoss(Function):
    """Minus the IWAE bound, reduced over the observations, from the likelihood's parameters and the log-ratio.

    The normalised weights come back too, for the backward pass; they carry no gradient.
    """

    @staticmethod
    def forward(
        name: str, backend: str, reduction: str, mask: Tensor | None, log_ratio: Tensor, *parameters: Tensor
    ) -> tuple[Tensor, Tensor]:
        return ops.call(name, *parameters, log_ratio, mask, reduction, backend=backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.name, ctx.backend, ctx.reduction, mask, log_ratio, *parameters = inputs
        _, weights = output
        ctx.mark_non_differentiable(weights)
        ctx.set_materialize_grads(False)  # else the engine makes zeros for the weights at every backward
        ctx.log_ratio_dtype = log_ratio.dtype
        ctx.save_for_backward(weights, mask, *parameters)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        weights, mask, *parameters = ctx.saved_tensors
        needs = list(ctx.needs_input_grad[5:])
        *gradients, grad_log_ratio = _gradients(ctx, (grad,), weights, *parameters, mask, ctx.reduction, needs)
        if grad_log_ratio.dtype != ctx.log_ratio_dtype:
            grad_log_ratio = grad_log_ratio.to(ctx.log_ratio_dtype)
        return None, None, None, None, grad_log_ratio, *_place(gradients, needs)


class SampleGaussian(Function):
    """Reparameterised samples and their log-ratio, from the parameters of q, a seed and indices."""

    @staticmethod
    def forward(
        backend: str,
        mean: Tensor,
        log_std: Tensor,
        seed: Tensor,
        samples: Tensor | None,
        num_samples: int,
        indices: tuple[int, int, int],
        path_only: bool,
    ) -> tuple[Tensor, Tensor]:
        return ops.call("sample_gaussian", mean, log_std, seed, samples, num_samples, *indices, backend=backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.name = "sample_gaussian"
        ctx.backend, mean, log_std, seed, samples, ctx.num_samples, ctx.indices, ctx.path_only = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(mean, log_std, seed, samples)

    @staticmethod
    def backward(ctx: Any, grad_z: Tensor | None, grad_log_ratio: Tensor | None) -> tuple[Tensor | None, ...]:
        if grad_z is None and grad_log_ratio is None:
            return (None,) * 8
        arguments = (*ctx.saved_tensors, ctx.num_samples, *ctx.indices, ctx.path_only)
        grad_mean, grad_log_std = _gradients(ctx, (grad_z, grad_log_ratio), *arguments)
        return None, grad_mean, grad_log_std, None, None, None, None, None


def _place(gradients: list[Tensor] | tuple[Tensor, ...], needs: list[bool]) -> list[Tensor | None]:
    """Put the gradients that were computed in the places of the inputs that need one."""
    remaining = iter(gradients)
    return [next(remaining) if needed else None for needed in needs]


def _gradients(ctx: Any, grads: tuple[Tensor | None, ...], *arguments: Any) -> list[Tensor] | tuple[Tensor, ...]:
    inputs = (ctx.name, ctx.backend, len(grads), *grads, *arguments)
    if torch.compiler.is_compiling():
        return _Gradients.forward(*inputs)
    # create_graph=True and torch.func.grad differentiate what happens here; vmap may batch it.
    if torch.is_grad_enabled() or torch._C._are_functorch_transforms_active():
        return apply(_Gradients, *inputs)
    return _Gradients.forward(*inputs)


def _with_memory(grad: Tensor | None) -> Tensor | None:
    """The same gradient with its numbers in memory, where autograd hands over a lazily negated or zero tensor."""
    if grad is None:
        return None
    if torch._C._functorch.is_legacy_batchedtensor(grad):
        raise RuntimeError("is_grads_batched and vectorize=True need backend='reference'; torch.func.jacrev does not")
    if grad.is_neg() or grad._is_zerotensor():
        return grad.resolve_neg().clone()
    return grad


class _Gradients(Function):
    """A backward pass that refuses to be differentiated.

    It depends on everything the gradient depends on, so a second derivative raises. With ``once_differentiable``
    it would silently be zero wherever the incoming gradient is a constant.
    """

    @staticmethod
    def forward(name: str, backend: str, count: int, *arguments: Any) -> tuple[Tensor, ...]:
        """``arguments`` are the incoming gradients, ``count`` of them, then what the op needs besides."""
        if not torch.compiler.is_compiling():
            arguments = (*map(_with_memory, arguments[:count]), *arguments[count:])
        gradients = ops.call(f"{name}_backward", *arguments, backend=backend)
        return (gradients,) if isinstance(gradients, Tensor) else tuple(gradients)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.name = inputs[0]

    @staticmethod
    def vmap(info: Any, in_dims: tuple[Any, ...], *arguments: Any) -> tuple[tuple[Tensor, ...], Any]:
        """One by one: what a batch of incoming gradients is for, a Jacobian, is rare."""
        results = [
            _Gradients.apply(
                *(
                    a.select(dim, i) if isinstance(a, Tensor) and dim is not None else a
                    for a, dim in zip(arguments, in_dims, strict=True)
                )
            )
            for i in range(info.batch_size)
        ]
        stacked = tuple(torch.stack(column) for column in zip(*results, strict=True))
        return stacked, (0,) * len(stacked)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise RuntimeError(f"{ctx.name}: second derivatives of fused ops do not exist; use backend='reference'")
