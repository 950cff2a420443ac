"""Features that are one of C classes, such as pixels of 256 levels."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from .. import checks
from ..reference import widen
from .base import Likelihood, by_sample, observed, sum_observed


class Categorical(Likelihood):
    """Independent categorical features in {0, ..., C - 1}.

    x holds class indices, (B, ...), of any floating or integer dtype. The decoder returns logits, (N, D C) or
    (N, ..., C), with the classes last. The mean is the mean of the index, which is meaningful if classes are levels.
    Adding a constant to all logits of a feature does not change the result, and a logit of -inf is a class of
    probability 0.

    Args:
        num_classes: C; the name "categorical" stands for the 256 levels of an 8-bit pixel.
    """

    name = "categorical"
    outputs: tuple[str, ...] = ("logits",)

    def __init__(self, num_classes: int = 256) -> None:
        super().__init__()
        self.num_classes: int = checks.positive("num_classes", num_classes)
        self.support: constraints.Constraint = constraints.integer_interval(0, num_classes - 1)

    def log_prob(
        self, value: Tensor, output: Any, num_samples: int, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        logits = by_sample("logits", output, num_samples, value, self.num_classes)
        (logits,) = widen(logits.unflatten(-1, (-1, self.num_classes)))
        (index,) = observed(mask, value.flatten(1))
        index = index.long().expand(num_samples, -1, -1).unsqueeze(-1)
        if mask is not None:
            (logits,) = observed(mask.unsqueeze(-1), logits)
        return sum_observed(torch.log_softmax(logits, -1).gather(-1, index).squeeze(-1), mask)

    def mean(self, output: Any) -> Tensor:
        """Return the mean class index, (N, D) or (N, ...)."""
        (logits,) = widen(self._by_class(output))
        levels = torch.arange(self.num_classes, dtype=logits.dtype, device=logits.device)
        return torch.softmax(logits, -1) @ levels

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        """Draw class indices, int64, (N, D) or (N, ...)."""
        logits = self._by_class(output)
        probabilities = torch.softmax(widen(logits)[0], -1)
        drawn = torch.multinomial(probabilities.flatten(0, -2), 1, generator=generator)
        return drawn.view(logits.shape[:-1])

    def _by_class(self, logits: Tensor) -> Tensor:
        return logits if logits.dim() > 2 else logits.unflatten(-1, (-1, self.num_classes))

    def output_sizes(self, data_dim: int) -> dict[str, int]:
        return {"logits": data_dim * self.num_classes}

    def encoder_input(self, x: Tensor) -> Tensor:
        """Scale class indices to levels from 0 to 1."""
        x = x if x.is_floating_point() else x.to(torch.get_default_dtype())
        return x / max(self.num_classes - 1, 1)

    def extra_repr(self) -> str:
        return f"num_classes={self.num_classes}"
