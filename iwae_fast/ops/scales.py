"""A bound's loss and the scales of its gradient, from the terms of log-weights, and the samples of a budget."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from ..backends import REFERENCE, choose
from ..reference import ScaleFactors
from .function import Fused, applied, backward_pass, host_value, implementation, saved, supports


class ScaledLoss(NamedTuple):
    """Minus a bound, reduced over observations, and what its gradient needs; only ``loss`` has a graph."""

    loss: Tensor
    bound: Tensor
    """Bounds per observation, (...)."""
    log_weights: Tensor
    """(k, ...)."""
    scales: tuple[Tensor, ...]
    """The scales of the samples' gradients of the loss, (k, ...): in the decoder, in the encoder, and the latter
    divided by the former; or one for both."""

    @property
    def decoder(self) -> Tensor:
        return self.scales[0]

    @property
    def encoder(self) -> Tensor:
        return self.scales[1] if len(self.scales) > 1 else self.scales[0]

    @property
    def ratio(self) -> Tensor | None:
        return self.scales[2] if len(self.scales) > 1 else None


def backend_with(op: str, backend: str | None, tensors: Sequence[Tensor]) -> str | None:
    """Return the backend whose kernel serves ``weight_scales`` or ``select_samples`` on these tensors, or None: the
    same results are then composed of other operations."""
    chosen = choose(backend, tuple(tensors), op, tensors[0].shape)
    return chosen if chosen != REFERENCE and supports(op, chosen) else None


def scaled_loss(
    terms: Sequence[Tensor],
    factors: ScaleFactors,
    reduction: str,
    kl_weight: float = 1.0,
    messenger: Tensor | None = None,
    *,
    backend: str,
) -> ScaledLoss:
    """Compute minus a bound of log-weights terms[0] + kl_weight (terms[1] + ...), with the gradient of an estimator.

    One launch adds the terms and reduces the loss, and another one makes the gradients: the last of several terms gets
    the encoder's scales, the others get the decoder's, and all but the first are multiplied by ``kl_weight``.

    Args:
        terms: each (k, ...), k >= 1.
        factors: the bound and the estimator, as in :func:`iwae_fast.reference.weight_scales`.
        reduction: "mean" or "sum" over the observations, or "none".
        messenger: (k, ...), a tensor whose gradient is the ratio of the scales, whatever the upstream gradient.
        backend: one that :func:`backend_with` returned for "weight_scales".
    """
    loss, bound, log_weights, *scales = applied(ScaledLossFunction)(
        backend, tuple(factors), reduction, kl_weight, messenger, *terms
    )
    return ScaledLoss(loss, bound, log_weights.detach(), tuple(scales))


def select_samples(
    decoder: Tensor,
    encoder: Tensor,
    seed: Tensor,
    budget: int,
    observation_offset: int,
    stream: int,
    rounding: float,
    *,
    backend: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Choose the samples of a budget by their scales (k, B), in one launch: see
    :meth:`iwae_fast.backends.base.Ops.select_samples`."""
    return implementation(backend).select_samples(decoder, encoder, seed, budget, observation_offset, stream, rounding)


class ScaledLossFunction(Fused):
    """The Function of :func:`scaled_loss`.

    The log-weights stay in the graph, so that gradients can depend on them and a second derivative raises. No gradient
    flows through them, so the caller must detach them.
    """

    @staticmethod
    def forward(
        backend: str,
        factors: tuple[Any, ...],
        reduction: str,
        kl_weight: float,
        messenger: Tensor | None,
        *terms: Tensor,
    ) -> tuple[Tensor, ...]:
        loss, bound, log_weights, scales = implementation(backend).weight_scales(
            terms, kl_weight, ScaleFactors(*factors), reduction
        )
        return loss, bound, log_weights, *scales

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        ctx.backend, _, _, ctx.kl_weight, _, *terms = inputs
        _, bound, log_weights, *scales = output
        ctx.mark_non_differentiable(bound, *scales)
        ctx.set_materialize_grads(False)
        ctx.dtypes = [term.dtype for term in terms]
        ctx.save_for_backward(log_weights, *scales)

    @staticmethod
    def backward(ctx: Any, grad: Tensor | None, *_: None) -> tuple[Tensor | None, ...]:
        needs_grad = ctx.needs_input_grad[4:]
        if grad is None:
            return (None,) * len(ctx.needs_input_grad)
        log_weights, *scales = saved(ctx)
        # Terms whose scale and factor are the same share a product.
        last, encoder = len(ctx.dtypes) - 1, int(len(scales) > 1)
        products = [(encoder if i == last > 0 else 0, ctx.kl_weight if i else 1.0) for i in range(last + 1)]
        needed: list[tuple[int, float]] = []
        for product, needs in zip(products, needs_grad[1:], strict=True):
            if needs and product not in needed:
                needed.append(product)
        made = backward_pass(
            "iwae_loss",
            _scaled_gradients,
            (grad,),
            log_weights,
            *[scales[index] for index, _ in needed],
            [factor for _, factor in needed],
            ctx.backend,
        )
        gradients = [
            made[needed.index(product)].to(dtype) if needs else None
            for product, dtype, needs in zip(products, ctx.dtypes, needs_grad[1:], strict=True)
        ]
        ratio = scales[2] if needs_grad[0] and len(scales) > 1 else None
        return None, None, None, None, ratio, *gradients


def _scaled_gradients(grad: Tensor, log_weights: Tensor, *arguments: Any) -> list[Tensor]:  # noqa: ARG001
    """Return scales times their factors and the upstream gradient; ``log_weights`` ties them to the graph."""
    *scales, factors, backend = arguments
    if not scales:
        return []
    if supports("scaled_gradients", backend):
        return implementation(backend).scaled_gradients(scales, grad, factors)
    number = host_value(grad)
    if number == 0.0:
        return [torch.zeros_like(scale) for scale in scales]
    if math.isfinite(number):
        return [scale * (number * factor) for scale, factor in zip(scales, factors, strict=True)]
    return [torch.where(grad == 0, 0.0, scale * (grad * f)) for scale, f in zip(scales, factors, strict=True)]
