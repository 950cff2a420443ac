"""Decoders whose last layer is linear, which likelihoods may fuse with their density."""

from __future__ import annotations

from abc import ABC, abstractmethod

from torch import Tensor, nn

from ..modules import defines, is_plain_linear, runs_forward


class LinearOutput(nn.Module, ABC):
    """A decoder whose last layer is linear: logits are output(features(z)).

    A model with a Bernoulli likelihood fuses that layer and the likelihood
    (:func:`iwae_fast.linear_bernoulli_log_prob`). A subclass sets ``output`` and defines :meth:`features`.

    ``output`` may be any module. The layer is not fused, and decoder and layer are called like any module, unless the
    layer is certain to compute ``F.linear(features, output.weight, output.bias)``. It is not certain if its class is
    not nn.Linear (parametrized by torch.nn.utils.parametrize or not), if the decoder overrides ``forward``, if hooks
    are registered on either module or globally, or if ``compile()`` was called on either.
    """

    output: nn.Module

    @abstractmethod
    def features(self, z: Tensor, *context: Tensor) -> Tensor:
        """Return the input of the output layer, (N, H), for latents (N, Z)."""

    def forward(self, z: Tensor, *context: Tensor) -> Tensor:
        output: Tensor = self.output(self.features(z, *context))
        return output


def has_plain_linear_output(decoder: nn.Module) -> bool:
    """Return True if a call of the decoder is certain to compute ``output(features(z))`` with a plain linear layer, and
    nothing else: neither its subclass nor the instance overrides ``forward``, and no hooks are registered."""
    return (
        isinstance(decoder, LinearOutput)
        and defines(decoder, LinearOutput, "forward")
        and runs_forward(decoder)
        and is_plain_linear(decoder.output)
    )
