"""Where samples leave the encoder: one backward pass brings each network its own scales."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .autograd import Once, apply


class Junction:
    """Hands z on to the densities, and brings the gradients that come back to the scales of the encoder.

    The backward pass is seeded with the decoder's scales a, and with the encoder's scales b inside log q. What arrives
    at z from the decoder's densities is multiplied by ``ratio`` = b / a, which is known only when z has been used: set
    it before the backward pass.

    Args:
        doubly: whether z also belongs to the prior it came down from, whose parameters then get
            sum_i [a_i d log p(children | z_i) / dz_i - b_i d log w_i / dz_i] dz_i / dlambda, z_i being a function of
            the prior's own noise (GDReG, Bauer & Mnih 2021).
    """

    ratio: Tensor
    """(k, B), of all samples."""

    def __init__(self, doubly: bool = False) -> None:
        self.doubly = doubly

    def part(self, first: int) -> _Part:
        """The same, for a chunk of samples that begins at ``first``."""
        return _Part(self, first)


class _Part:
    def __init__(self, junction: Junction, first: int) -> None:
        self.junction = junction
        self.first = first
        self.doubly = junction.doubly

    def __call__(self, z: Tensor, from_prior: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """z (k, B, Z) as the parent in p, as the child in p, and inside q.

        ``from_prior`` is the same z as its prior's own reparameterisation makes it.
        """
        if not z.requires_grad and (from_prior is None or not from_prior.requires_grad):
            return z, z, z
        return _Pass.apply(z, from_prior, self)

    def ratio(self, grad: Tensor) -> Tensor:
        return self.junction.ratio[self.first : self.first + len(grad), :, None].to(grad.dtype)


class _Pass(torch.autograd.Function):
    @staticmethod
    def forward(z: Tensor, from_prior: Tensor | None, part: _Part) -> tuple[Tensor, Tensor, Tensor]:
        return z.view_as(z), z.view_as(z), z.view_as(z)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor | None, _Part], output: tuple[Tensor, ...]) -> None:
        _, _, ctx.part = inputs
        ctx.set_materialize_grads(False)

    @staticmethod
    def backward(
        ctx: Any, as_parent: Tensor | None, as_child: Tensor | None, inside_q: Tensor | None
    ) -> tuple[Tensor | None, Tensor | None, None]:
        from_p = _sum(as_parent, as_child)
        to_encoder = _sum(None if from_p is None else from_p * ctx.part.ratio(from_p), inside_q)
        to_prior = None
        if ctx.needs_input_grad[1]:
            to_prior = _sum(as_parent, None if to_encoder is None else -to_encoder)
        return to_encoder, to_prior, None


def _sum(first: Tensor | None, second: Tensor | None) -> Tensor | None:
    if first is None or second is None:
        return second if first is None else first
    return first + second


class Ascended(torch.autograd.Function):
    """The value (B,), with the gradient of sum_i scales_i terms_i for each pair of scales and terms, (k, B).

    Nothing is summed for it: a scale of 0 gives a gradient of 0, also where its term is infinite.
    """

    @staticmethod
    def forward(value: Tensor, *scales_and_terms: Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        _, *scales_and_terms = inputs
        ctx.save_for_backward(*scales_and_terms)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gradients: list[Tensor | None] = [None]
        saved = ctx.saved_tensors
        for index, (scales, term) in enumerate(zip(saved[::2], saved[1::2], strict=True)):
            gradient = None
            if ctx.needs_input_grad[2 * index + 2]:
                gradient = (scales * grad).to(term.dtype)
                if torch.is_grad_enabled():
                    gradient = apply(Once, gradient, *saved[1::2])
            gradients += [None, gradient]
        return tuple(gradients)
