"""Observation models p(x | z): what a decoder's output means, and how likely an observation is under it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from .functional import bernoulli_log_prob, gaussian_log_prob
from .linear import linear_bernoulli_log_prob


class LinearLayer(NamedTuple):
    """A decoder's output that is yet to be computed."""

    hidden: Tensor
    """(k B, H)."""
    layer: nn.Linear


class Bernoulli:
    """Independent Bernoulli pixels; the decoder returns logits."""

    name = "bernoulli"
    takes_linear_output = True

    def log_prob(
        self, value: Tensor, output: Any, num_samples: int, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        """log p(x | z_i) in nats, (k, B), from value (B, ...) and the decoder's output for k B latent rows, or its last
        layer and what that sees.

        Features that a mask (B, D) hides count nothing.
        """
        if isinstance(output, LinearLayer):
            hidden = output.hidden.reshape(num_samples, len(value), output.hidden.shape[-1])
            weight, bias = output.layer.weight, output.layer.bias
            flat = value.flatten(1)
            return linear_bernoulli_log_prob(flat, hidden, weight, bias, mask, recompute=False, backend=backend)
        logits = _by_sample("logits", output, num_samples, value)
        return bernoulli_log_prob(value.flatten(1), logits, mask, backend=backend)

    def mean(self, output: Any) -> Tensor:
        """E[x | z], in the shape of the decoder's output."""
        return torch.sigmoid(output)


class Gaussian:
    """Independent Gaussian features; the decoder returns (mean, log_std)."""

    name = "gaussian"
    takes_linear_output = False

    def log_prob(
        self, value: Tensor, output: Any, num_samples: int, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        """log p(x | z_i) in nats, (k, B), from value (B, ...) and the decoder's output for k B latent rows.

        Features that a mask (B, D) hides count nothing.
        """
        if not isinstance(output, tuple) or len(output) != 2:
            raise TypeError(f"a Gaussian decoder must return (mean, log_std), got {type(output).__name__}")
        mean, log_std = (
            _by_sample(name, part, num_samples, value) for name, part in zip(("mean", "log_std"), output, strict=True)
        )
        return gaussian_log_prob(value.flatten(1), mean, log_std, mask, backend=backend)

    def mean(self, output: Any) -> Tensor:
        """E[x | z], in the shape of the decoder's mean."""
        return output[0]


def _by_sample(name: str, output: Any, num_samples: int, value: Tensor) -> Tensor:
    """(k B, ...) -> (k, B, D), with D the number of features of the observations (B, ...)."""
    if not isinstance(output, Tensor):
        raise TypeError(f"the decoder's {name} must be a tensor, got {type(output).__name__}")
    features = value[0].numel() if len(value) else output.shape[1:].numel()
    if output.shape[0] != num_samples * len(value) or output.shape[1:].numel() != features:
        raise ValueError(
            f"the decoder's {name} {tuple(output.shape)} do not fit observations {tuple(value.shape)} "
            f"with k = {num_samples}: expected ({num_samples * len(value)}, ...) with {features} features"
        )
    return output.reshape(num_samples, len(value), features)


LIKELIHOODS = {likelihood.name: likelihood for likelihood in (Bernoulli, Gaussian)}
