"""Autograd Functions around the native ops: forward keeps its inputs, backward is one native call.

``name`` and ``backend`` say which op runs where; neither they nor masks take a gradient.
"""

from __future__ import annotations

import math
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


class LinearBernoulli(Function):
    """log p(value | hidden @ weight.T + bias), whose forward pass leaves the residuals in the place of the logits.

    They come back too, for the backward pass, and carry no gradient. Going back, the incoming gradient weighs the few
    columns of ``hidden`` and of its gradient, not the many of the residuals.
    """

    @staticmethod
    def forward(
        backend: str, value: Tensor, mask: Tensor | None, hidden: Tensor, weight: Tensor, bias: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        return ops.call("linear_bernoulli_log_prob_and_residual", value, hidden, weight, bias, mask, backend=backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        _, _, _, hidden, weight, _ = inputs
        log_prob, residual = output
        ctx.mark_non_differentiable(residual)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(log_prob, residual, hidden, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, _: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 6
        log_prob, residual, hidden, weight = ctx.saved_tensors
        rows = (log_prob.numel(), -1)
        scale = _with_memory(grad).to(hidden.dtype).reshape(rows)
        residual, inputs = residual.view(rows), hidden.reshape(rows)
        # A coefficient of zero gives zero, also where the residual is NaN, as the log-probability then is.
        if _stands_in() or math.isnan(log_prob.sum().item()):
            residual = residual.masked_fill((scale == 0) & log_prob.isnan().reshape(rows), 0.0)
        _, _, _, of_hidden, of_weight, of_bias = ctx.needs_input_grad
        gradients = (
            torch.mm(residual, weight).mul_(scale).view(hidden.shape) if of_hidden else None,
            torch.mm(residual.t(), inputs * scale) if of_weight else None,
            torch.mv(residual.t(), scale.squeeze(1)) if of_bias else None,
        )
        return None, None, None, *_once(gradients, log_prob)


class LinearTanh(Function):
    """tanh(hidden @ weight.T + bias)."""

    @staticmethod
    def forward(backend: str, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        return ops.call("linear_tanh", hidden, weight, bias, backend=backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.name = "linear_tanh"
        ctx.backend, hidden, weight, _ = inputs
        ctx.save_for_backward(output, hidden, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = list(ctx.needs_input_grad[1:])
        gradients = _gradients(ctx, (grad,), *ctx.saved_tensors, needs)
        return None, *_place(gradients, needs)


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


class IWAELossAtOnce(Function):
    """:class:`IWAELoss` whose forward pass makes the gradients too: each exponential is computed once.

    ``wanted`` says of which parameters; they need the shape of the whole call, and the dtype of its sums. Weights and
    gradients come back for the backward pass, and carry no gradient.
    """

    @staticmethod
    def forward(
        name: str,
        backend: str,
        reduction: str,
        mask: Tensor | None,
        wanted: list[bool],
        log_ratio: Tensor,
        *parameters: Tensor,
    ) -> tuple[Tensor, ...]:
        name = f"{name}_and_gradients"
        loss, weights, gradients = ops.call(name, *parameters, log_ratio, mask, reduction, wanted, backend=backend)
        return loss, weights, *gradients

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, _, ctx.reduction, _, _, log_ratio, *_ = inputs
        loss, *others = output
        ctx.mark_non_differentiable(*others)
        ctx.set_materialize_grads(False)
        ctx.log_ratio_dtype = log_ratio.dtype
        ctx.save_for_backward(loss, *others)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        loss, weights, *gradients = ctx.saved_tensors
        grad = _with_memory(grad)
        needs = list(ctx.needs_input_grad[6:])
        of_log_ratio = _of_log_ratio(ctx, weights, grad) if ctx.needs_input_grad[5] else None
        if not (_is_one(grad) and _last_pass()):
            gradients = [
                _weighed(g, grad.unsqueeze(-1) if grad.dim() else grad, weights.unsqueeze(-1)) for g in gradients
            ]
        of_log_ratio, *placed = _once((of_log_ratio, *_place(gradients, needs)), loss)
        return None, None, None, None, None, of_log_ratio, *placed


class LinearIWAELoss(Function):
    """Minus the IWAE bound of a linear layer and a Bernoulli likelihood, reduced over the observations.

    The forward pass leaves the gradient of the logits in their place. It comes back with the bounds and the normalised
    weights, and they carry no gradient.
    """

    @staticmethod
    def forward(
        backend: str,
        reduction: str,
        value: Tensor,
        mask: Tensor | None,
        log_ratio: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        name = "linear_bernoulli_iwae_loss"
        return ops.call(name, value, hidden, weight, bias, log_ratio, mask, reduction, backend=backend)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        _, ctx.reduction, _, _, log_ratio, hidden, weight, _ = inputs
        loss, bound, weights, gradient = output
        ctx.mark_non_differentiable(bound, weights, gradient)
        ctx.set_materialize_grads(False)
        ctx.log_ratio_dtype = log_ratio.dtype
        ctx.save_for_backward(loss, weights, gradient, hidden, weight)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        if grad is None:
            return (None,) * 8
        loss, weights, gradient, hidden, weight = ctx.saved_tensors
        grad = _with_memory(grad)
        if not _is_one(grad):
            gradient = _weighed(gradient, grad.unsqueeze(-1) if grad.dim() else grad, weights.unsqueeze(-1))
        rows = (weights.numel(), -1)
        gradient, inputs = gradient.view(rows), hidden.reshape(rows)
        *_, of_log_ratio, of_hidden, of_weight, of_bias = ctx.needs_input_grad
        gradients = (
            _of_log_ratio(ctx, weights, grad) if of_log_ratio else None,
            torch.mm(gradient, weight).view(hidden.shape) if of_hidden else None,
            torch.mm(gradient.t(), inputs) if of_weight else None,
            gradient.sum(0) if of_bias else None,
        )
        return None, None, None, None, *_once(gradients, loss)


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


def _stands_in() -> bool:
    """Whether tensors may stand for others, whose numbers cannot be looked at."""
    return torch.compiler.is_compiling() or torch._C._are_functorch_transforms_active()


def _is_one(grad: Tensor) -> bool:
    return not grad.dim() and not _stands_in() and grad.item() == 1.0


def _last_pass() -> bool:
    """Whether what was kept for the backward pass may be given away: no later pass reads it again."""
    return not torch._C._autograd._get_current_graph_task_keep_graph()


def _of_log_ratio(ctx: Any, weights: Tensor, grad: Tensor) -> Tensor:
    """Minus the normalised weights, shared out by a mean."""
    share = 1.0 / max(weights[0].numel(), 1) if ctx.reduction == "mean" else 1.0
    return _weighed(weights * -share, grad, weights).to(ctx.log_ratio_dtype)


def _weighed(kept: Tensor, grad: Tensor, weights: Tensor) -> Tensor:
    """kept * grad, and 0 where the weight is, also if the incoming gradient is not finite."""
    product = kept * grad
    if _stands_in() or not grad.isfinite().all():
        product = torch.where(weights == 0, 0.0, product)
    return product


def _once(gradients: tuple[Tensor | None, ...], result: Tensor) -> tuple[Tensor | None, ...]:
    """The same gradients of a result, with second derivatives that raise."""
    if torch.compiler.is_compiling() or not torch.is_grad_enabled():
        return gradients
    return tuple(None if g is None else apply(Once, g, result) for g in gradients)


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


def _with_memory(grad: Tensor) -> Tensor:
    """The same gradient with its numbers in memory, where autograd hands over a lazily negated or zero tensor."""
    if torch.compiler.is_compiling():
        return grad
    if torch._C._functorch.is_legacy_batchedtensor(grad):
        raise RuntimeError("is_grads_batched and vectorize=True need backend='reference'; torch.func.jacrev does not")
    if grad.is_neg() or grad._is_zerotensor():
        return grad.resolve_neg().clone()
    return grad


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


class _Gradients(Function):
    """A backward pass that refuses to be differentiated.

    It depends on everything the gradient depends on, so a second derivative raises. With ``once_differentiable``
    it would silently be zero wherever the incoming gradient is a constant.
    """

    @staticmethod
    def forward(name: str, backend: str, count: int, *arguments: Any) -> tuple[Tensor, ...]:
        """``arguments`` are the incoming gradients, ``count`` of them, then what the op needs besides."""
        grads = [None if grad is None else _with_memory(grad) for grad in arguments[:count]]
        gradients = ops.call(f"{name}_backward", *grads, *arguments[count:], backend=backend)
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
