"""Binary features, and gray levels used as their probabilities."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ..modules import defines
from ..ops.densities import bernoulli_log_prob
from ..ops.linear import linear_bernoulli_iwae, linear_bernoulli_log_prob
from ..ops.losses import IWAEResult, fused_iwae
from .base import Likelihood, by_sample


class LinearLayer(NamedTuple):
    """The inputs of a decoder's last layer, for ops that fuse it with the likelihood."""

    hidden: Tensor
    """(k B, H)."""
    layer: nn.Linear


class Bernoulli(Likelihood):
    """Independent Bernoulli pixels in [0, 1]; the decoder returns logits (N, ...), or a :class:`LinearLayer`.

    The log-probability is fused: :func:`iwae_fast.bernoulli_log_prob`.
    """

    name = "bernoulli"
    outputs: tuple[str, ...] = ("logits",)
    support: constraints.Constraint = constraints.unit_interval
    takes_integers = False

    @property
    def takes_linear_output(self) -> bool:
        """True if :meth:`log_prob` is not overridden: a subclass may not support :class:`LinearLayer`."""
        return defines(self, Bernoulli, "log_prob")

    def log_prob(
        self, value: Tensor, output: Any, num_samples: int, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        if isinstance(output, LinearLayer):
            hidden = output.hidden.reshape(num_samples, value.shape[0], output.hidden.shape[-1])
            weight, bias = output.layer.weight, output.layer.bias
            flat = value.flatten(1)
            return linear_bernoulli_log_prob(flat, hidden, weight, bias, mask, recompute=False, backend=backend)
        logits = by_sample("logits", output, num_samples, value)
        return bernoulli_log_prob(value.flatten(1), logits, mask, backend=backend)

    def iwae_loss(
        self,
        value: Tensor,
        output: Any,
        log_ratio: Tensor,
        mask: Tensor | None = None,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> IWAEResult:
        if not defines(self, Bernoulli, "log_prob"):
            return super().iwae_loss(value, output, log_ratio, mask, reduction, backend)
        flat = value.flatten(1)
        if isinstance(output, LinearLayer):
            hidden = output.hidden.reshape(*log_ratio.shape, output.hidden.shape[-1])
            # Each is read once: a parametrization recomputes it at every access, possibly with a different result.
            weight, bias = output.layer.weight, output.layer.bias
            return linear_bernoulli_iwae(flat, hidden, weight, bias, log_ratio, mask, reduction, backend=backend)
        logits = by_sample("logits", output, len(log_ratio), value)
        fused = fused_iwae("bernoulli", log_ratio, mask, reduction, backend, value=flat, logits=logits)
        return fused or super().iwae_loss(value, output, log_ratio, mask, reduction, backend)

    def mean(self, output: Any) -> Tensor:
        return torch.sigmoid(output)

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        return torch.bernoulli(torch.sigmoid(output), generator=generator)

    def initial_biases(self, data_mean: Tensor) -> dict[str, Tensor]:
        return {"logits": torch.logit(data_mean.clamp(0.001, 0.999))}
