"""Real features with Gaussian noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..checks import accumulation_dtype
from ..modules import defines
from ..ops.densities import gaussian_log_prob
from ..ops.losses import IWAEResult, fused_iwae
from .base import Likelihood, parts_by_sample, parts_of
from .bounded import bounded, checked_bounds


class Gaussian(Likelihood):
    """Independent Gaussian features. The log-density is fused: :func:`iwae_fast.gaussian_log_prob`.

    Any log_std is allowed. If the log-density of an observation overflows it is -inf. A feature that equals its mean
    has log-density -log_std - log(2 pi) / 2, which grows without bound as log_std decreases.

    Args:
        scale: the source of the standard deviation. "decoder" (likelihood "gaussian"): per feature from the decoder,
            which returns (mean, log_std), each (N, ...). "learned" ("gaussian-learned"): one parameter ``log_std``
            shared by all features, initialized with 0. A number above 0 ("gaussian-fixed" has 1): that number. With the
            latter two the decoder returns only the mean.
        log_std_bounds: bounds (low, high) of the decoder's log_std, for ``scale`` "decoder": it is then low + (high -
            low) sigmoid(4 (v - m) / (high - low)), for the decoder's v and the center m of the bounds. They keep the
            likelihood of a table finite where a column repeats a value.
    """

    takes_integers = False

    def __init__(self, scale: str | float = "decoder", log_std_bounds: tuple[float, float] | None = None) -> None:
        super().__init__()
        self.log_std_bounds: tuple[float, float] | None = checked_bounds(log_std_bounds)
        if log_std_bounds is not None and scale != "decoder":
            raise ValueError(f"log_std_bounds must be None unless scale is 'decoder', got scale {scale!r}")
        self.name: str
        self.outputs: tuple[str, ...]
        if scale == "decoder":
            self.name, self.outputs = "gaussian", ("mean", "log_std")
        elif scale == "learned":
            self.name, self.outputs = "gaussian-learned", ("mean",)
            self.log_std: nn.Parameter = nn.Parameter(torch.zeros(1))
        else:
            if isinstance(scale, (bool, str)) or not isinstance(scale, (int, float)) or not 0.0 < scale < math.inf:
                raise ValueError(f"scale must be 'decoder', 'learned' or a number above 0, got {scale!r}")
            self.name, self.outputs = "gaussian-fixed", ("mean",)
        self.scale = scale

    def log_prob(
        self, value: Tensor, output: Any, num_samples: int, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        parts = parts_by_sample(self, output, num_samples, value)
        return gaussian_log_prob(value.flatten(1), parts[0], self._log_std(parts), mask, backend=backend)

    def iwae_loss(
        self,
        value: Tensor,
        output: Any,
        log_ratio: Tensor,
        mask: Tensor | None = None,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> IWAEResult:
        if self.scale == "decoder" and defines(self, Gaussian, "log_prob"):
            mean, log_std = parts_by_sample(self, output, len(log_ratio), value)
            parameters = {"value": value.flatten(1), "mean": mean, "log_std": bounded(log_std, self.log_std_bounds)}
            if (fused := fused_iwae("gaussian", log_ratio, mask, reduction, backend, **parameters)) is not None:
                return fused
        return super().iwae_loss(value, output, log_ratio, mask, reduction, backend)

    def _log_std(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the log standard deviation per feature, (..., D), or of all features, (1,)."""
        if self.scale == "decoder":
            return bounded(parts[1], self.log_std_bounds)
        if self.scale == "learned":
            return self.log_std
        dtype = accumulation_dtype(*parts)  # half precision would round it
        return torch.full((1,), math.log(float(self.scale)), dtype=dtype, device=parts[0].device)

    def mean(self, output: Any) -> Tensor:
        return parts_of(output, self)[0]

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        mean: Tensor = parts_of(output, self)[0]
        noise = torch.randn(mean.shape, generator=generator, dtype=mean.dtype, device=mean.device)
        return self.reparameterized(output, noise)

    def reparameterized(self, output: Any, noise: Tensor) -> Tensor:
        parts = parts_of(output, self)
        mean: Tensor = parts[0]
        return mean + torch.exp(self._log_std(parts)).to(mean.dtype) * noise.view_as(mean)

    def initial_biases(self, data_mean: Tensor) -> dict[str, Tensor]:
        return {"mean": data_mean}

    def extra_repr(self) -> str:
        bounds = "" if self.log_std_bounds is None else f", log_std_bounds={self.log_std_bounds}"
        return f"scale={self.scale!r}{bounds}"
