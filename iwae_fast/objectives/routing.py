"""Routing of gradients at z, so that one backward pass applies separate coefficients to encoder and decoder."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function

from ..ops.function import NotTwiceDifferentiable, applied
from .estimators import Scales


class GradientRouter:
    """A callable that passes z on to the densities, and rescales the gradients that come back to the encoder's scales.

    The backward pass is seeded with the decoder's scales a, and with the encoder's scales b inside log q. The gradient
    that arrives at z from the decoder's densities is multiplied by the ratio b / a, which is known only after z has
    been used. Therefore each layer's z is accompanied by a messenger, a tensor (k, B) whose gradient is that ratio,
    sent by :class:`WeightedTerms`. No state is kept in Python between the passes, so that a compiler can trace them and
    a chunk can be recomputed.

    Args:
        reparameterize_prior: if True, z is also reparameterized by its conditional prior, whose parameters then get
            sum_i [a_i d log p(children | z_i) / dz_i - b_i d log w_i / dz_i] dz_i / dlambda, with z_i a function of
            the prior's own noise (GDReG, Bauer & Mnih 2021).
    """

    def __init__(self, reparameterize_prior: bool = False) -> None:
        self.reparameterize_prior = reparameterize_prior
        self._messenger: Tensor | None = None

    def __call__(self, z: Tensor, from_prior: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return z (k, B, Z) as the parent in p, as the child in p, and inside q.

        ``from_prior`` is the same z, reparameterized by its prior.
        """
        if not z.requires_grad and (from_prior is None or not from_prior.requires_grad):
            return z, z, z
        *passed, self._messenger = applied(_Route)(z, from_prior, self._messenger)
        return tuple(passed)

    def restart(self) -> None:
        """Forget the z routed so far, whose graph is not used."""
        self._messenger = None

    def messenger(self, like: Tensor) -> Tensor:
        """Return the tensor whose gradient is the ratio for every z routed so far; its own values are not used."""
        return torch.empty_like(like).detach() if self._messenger is None else self._messenger


class _Route(Function):
    """Three views of z, and a messenger that is connected to those of earlier layers."""

    @staticmethod
    def forward(z: Tensor, from_prior: Tensor | None, messenger: Tensor | None) -> tuple[Tensor, ...]:
        return z.view_as(z), z.view_as(z), z.view_as(z), z.new_empty(z.shape[:-1])

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, ...]) -> None:
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, as_parent: Tensor | None, as_child: Tensor | None, inside_q: Tensor | None, ratio: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        from_p = _sum(as_parent, as_child)
        if from_p is not None and ratio is not None:
            to_encoder = _sum(from_p * ratio.unsqueeze(-1).to(from_p.dtype), inside_q)
        else:
            to_encoder = _sum(from_p, inside_q)
        to_prior = None
        if ctx.needs_input_grad[1]:
            to_prior = _sum(as_parent, None if to_encoder is None else -to_encoder)
        return to_encoder, to_prior, ratio if ctx.needs_input_grad[2] else None


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


class WeightedTerms(Function):
    """The value, (B,) or reduced, with the gradient of sum_i scales_i terms_i for each pair of them, (k, B).

    The sum itself is not computed: a scale of 0 gives a gradient of 0, also if its term is infinite. The gradient of
    the messenger of a :class:`GradientRouter` is ``ratio`` (k, B), regardless of the upstream gradient.
    """

    @staticmethod
    def forward(value: Tensor, ratio: Tensor | None, messenger: Tensor, *scales_and_terms: Tensor) -> Tensor:
        return value.detach()  # not a view, so that it may be changed in place

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor | None, ...], output: Tensor) -> None:
        _, ratio, _, *scales_and_terms = inputs
        ctx.save_for_backward(ratio, *scales_and_terms)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        ratio, *saved = ctx.saved_tensors
        gradients: list[Tensor | None] = [None, None, ratio if ctx.needs_input_grad[2] else None]
        scales, terms, needed = saved[::2], saved[1::2], ctx.needs_input_grad[4::2]
        products = iter(_products([scale for scale, needs in zip(scales, needed, strict=True) if needs], grad))
        for term, needs in zip(terms, needed, strict=True):
            gradient = next(products).to(term.dtype) if needs else None
            if gradient is not None and torch.is_grad_enabled():
                gradient = applied(NotTwiceDifferentiable)(gradient, *terms)
            gradients += [None, gradient]
        return tuple(gradients)


def _products(scales: list[Tensor], grad: Tensor) -> Sequence[Tensor]:
    """Return scales times an upstream gradient, in one launch if that is a number."""
    if grad.dim() or not scales or torch._C._are_functorch_transforms_active():
        return [scale * grad for scale in scales]
    return torch._foreach_mul(scales, grad)


def with_ratio(scales: Scales, rounding: float) -> tuple[Scales, Tensor]:
    """Return scales, and the encoder's divided by the decoder's, for the messenger of a :class:`GradientRouter`.

    The ratio must be finite, and the gradients that it multiplies must not underflow: the decoder's scales are raised
    in absolute value to at least ``rounding`` times the encoder's, a change within rounding.
    """
    decoder, encoder = scales
    if encoder is decoder:
        return scales, torch.ones_like(decoder)
    least = rounding * encoder.abs()
    decoder = torch.where(decoder.abs() < least, torch.copysign(least, decoder), decoder)
    ratio = torch.where(decoder == 0, 0.0, encoder / torch.where(decoder == 0, 1.0, decoder))
    return Scales(decoder, encoder), ratio
