"""Densities, log_mean_exp and samples: forward keeps its inputs, backward is one native call."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from .. import registry as ops
from ..function import Fused, gradients_of, place, saved


class Density(Fused):
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
        mask, *parameters = saved(ctx)
        needs = list(ctx.needs_input_grad[3:])
        gradients = gradients_of(ctx, (grad,), *parameters, mask, needs)
        return None, None, None, *place(gradients, needs)


class LogMeanExp(Fused):
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
        (log_weights,) = saved(ctx)
        (gradient,) = gradients_of(ctx, (grad,), log_weights, ctx.dim)
        return None, gradient, None


class SampleGaussian(Fused):
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
        arguments = (*saved(ctx), ctx.num_samples, *ctx.indices, ctx.path_only)
        grad_mean, grad_log_std = gradients_of(ctx, (grad_z, grad_log_ratio), *arguments)
        return None, grad_mean, grad_log_std, None, None, None, None, None
