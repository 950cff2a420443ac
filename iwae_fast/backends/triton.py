"""The Triton backend: the kernels of ``iwae_fast.kernels``, imported at the first call.

With TRITON_INTERPRET=1 the kernels run in Triton's interpreter, on CPU tensors, which is slow and serves to test them
without a GPU. It is never chosen by default.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from ..checks import FLOATING
from ..reference import ScaleFactors
from ..reference.activations import ACTIVATIONS
from ..reference.adam import AdamExtras, AdamSettings, AdamTensors
from . import tiled
from .base import WithoutOptionalOps
from .marshal import empty_bound, empty_selection, empty_squares

OLDEST = (3, 6)

INTERPRETED = os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "yes", "on", "y")
"""True if Triton's interpreter runs the kernels; parsed like Triton does when kernels are defined."""


class TritonBackend(WithoutOptionalOps):
    """Triton's kernels for GPUs."""

    device: str = "cpu" if INTERPRETED else "cuda"
    optional_ops: frozenset[str] = frozenset(
        {
            "adam",
            "linear_activation",
            "linear_bernoulli_log_prob_and_residual",
            "linear_heads",
            "scaled_gradients",
            "select_samples",
            "sum_squares",
            "weight_scales",
        }
    )
    layer_activations: Mapping[torch.dtype, Collection[str]] = {
        dtype: ACTIVATIONS for dtype in FLOATING if INTERPRETED or dtype != torch.float64
    }
    rounded_residuals: frozenset[torch.dtype] = frozenset({torch.bfloat16})
    """The dtypes, besides that of accumulation, in which residuals of a linear layer are stored."""
    residuals_without_nan = True
    """True: the residuals of a linear layer are 0 where they would be NaN, which the log-probability shows."""

    @cached_property
    def kernels(self) -> Any:
        """The module :mod:`iwae_fast.kernels.launches`, which imports Triton."""
        return importlib.import_module("..kernels.launches", __package__)

    def missing(self) -> str | None:
        installed = installed_version()
        if installed is None:
            return "Triton is not installed; it comes with CUDA builds of torch, or by pip install 'iwae_fast[triton]'"
        if tuple(int(part) for part in installed.split(".")[:2]) < OLDEST:
            return f"Triton {installed} is too old: at least {OLDEST[0]}.{OLDEST[1]} is needed"
        if not INTERPRETED and torch.version.cuda is None:
            return f"this build of torch ({torch.__version__}) has no CUDA"
        return None

    def unavailable(self) -> str | None:
        if (reason := self.missing()) is not None:
            return reason
        return None if INTERPRETED or torch.cuda.is_available() else "there is no CUDA device"

    def details(self) -> dict[str, Any]:
        return {"version": installed_version(), "interpreted": INTERPRETED} if self.missing() is None else {}

    def density(self, name: str, parameters: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        return self.kernels.log_prob(self.kernels.DENSITIES[name], parameters, mask)

    def density_backward(
        self, name: str, grad: Tensor, parameters: Sequence[Tensor], mask: Tensor | None, needs_grad: Sequence[bool]
    ) -> list[Tensor]:
        return self.kernels.log_prob_backward(self.kernels.DENSITIES[name], grad, parameters, mask, needs_grad)

    def iwae_loss(
        self, name: str, parameters: Sequence[Tensor], log_ratio: Tensor, mask: Tensor | None, reduction: str
    ) -> tuple[Tensor, Tensor]:
        return self.kernels.iwae_loss(self.kernels.DENSITIES[name], parameters, log_ratio, mask, reduction)

    def iwae_loss_backward(
        self,
        name: str,
        grad: Tensor,
        weights: Tensor,
        parameters: Sequence[Tensor],
        mask: Tensor | None,
        reduction: str,
        needs_grad: Sequence[bool],
    ) -> list[Tensor]:
        density = self.kernels.DENSITIES[name]
        return self.kernels.iwae_loss_backward(density, grad, weights, parameters, mask, reduction, needs_grad)

    def log_mean_exp(self, log_weights: Tensor, dim: int) -> Tensor:
        return self.kernels.log_mean_exp(log_weights, dim)

    def log_mean_exp_backward(self, grad: Tensor, log_weights: Tensor, dim: int) -> Tensor:
        return self.kernels.log_mean_exp_backward(grad, log_weights, dim)

    def weight_scales(
        self, terms: Sequence[Tensor], kl_weight: float, factors: ScaleFactors, reduction: str
    ) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
        results = empty_bound(terms, reduction, 1 if factors.is_one else 3)
        return self.kernels.weight_scales(results, terms, kl_weight, factors, reduction)

    def scaled_gradients(self, scales: Sequence[Tensor], grad: Tensor, factors: Sequence[float]) -> list[Tensor]:
        return self.kernels.scaled_gradients(scales, grad, factors)

    def select_samples(
        self, decoder: Tensor, encoder: Tensor, seed: Tensor, budget: int, *others: Any
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        results = empty_selection(decoder, encoder, budget)
        self.kernels.select_samples(results, decoder, encoder, seed, budget, *others)
        return results

    def standard_normal(self, *arguments: Any, **options: Any) -> Tensor:
        return self.kernels.standard_normal(*arguments, **options)

    def sample_gaussian(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return self.kernels.sample_gaussian(*arguments, **options)

    def sample_gaussian_backward(self, *arguments: Any, **options: Any) -> tuple[Tensor, Tensor]:
        return self.kernels.sample_gaussian_backward(*arguments, **options)

    def linear_bernoulli_log_prob(
        self, value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        if _by_tiles(value, hidden):
            return tiled.log_prob(self._tile_likelihood, value, hidden, weight, bias, mask)
        return self.kernels.linear_bernoulli_log_prob(value, hidden, weight, bias, mask)

    def linear_bernoulli_log_prob_and_residual(
        self, value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        if not _by_tiles(value, hidden):
            return self.kernels.linear_bernoulli_log_prob_and_residual(value, hidden, weight, bias, mask)
        logits = torch.nn.functional.linear(hidden, weight, bias)
        log_prob = self.density("bernoulli", (value, logits), mask)
        ones = log_prob.new_ones(()).expand(log_prob.shape)
        (residual,) = self.density_backward("bernoulli", ones, (value, logits), mask, [False, True])
        return log_prob, residual.masked_fill_(residual.isnan(), 0.0), log_prob.clone()

    def linear_bernoulli_log_prob_backward(
        self,
        grad: Tensor,
        value: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mask: Tensor | None,
        needs_grad: Sequence[bool],
    ) -> list[Tensor]:
        return tiled.log_prob_backward(self._tile_likelihood, grad, value, hidden, weight, bias, mask, needs_grad)

    def linear_activation(self, *arguments: Any) -> list[Tensor]:
        return self.kernels.linear_activation(*arguments)

    def linear_activation_backward(self, *arguments: Any, **options: Any) -> list[Tensor]:
        return self.kernels.linear_activation_backward(*arguments, **options)

    def linear_heads(self, *arguments: Any) -> list[Tensor]:
        return self.kernels.linear_heads(*arguments)

    def linear_heads_backward(self, *arguments: Any) -> list[Tensor]:
        return self.kernels.linear_heads_backward(*arguments)

    def adam(self, tensors: AdamTensors, settings: AdamSettings, extras: AdamExtras, turns: Tensor) -> None:
        self.kernels.adam(tensors, settings, extras)

    def sum_squares(self, gradients: Sequence[Tensor]) -> Tensor:
        squares = empty_squares(gradients)
        self.kernels.sum_squares(gradients, squares)
        return squares

    @cached_property
    def _tile_likelihood(self) -> tiled.TileLikelihood:
        """The density's own kernels, applied to torch's matrix products a tile of rows at a time."""

        def log_prob(value: Tensor, products: Tensor, bias: Tensor | None, mask: Tensor | None) -> Tensor:
            return self.density("bernoulli", (value, products if bias is None else products.add_(bias)), mask)

        return tiled.TileLikelihood(
            log_prob,
            lambda grad, value, logits, mask, needs: self.density_backward(
                "bernoulli", grad, (value, logits), mask, needs
            ),
        )


def _by_tiles(value: Tensor, hidden: Tensor) -> bool:
    """Return True if a tensor is float64: Triton 3.7's compiler fails on some products of float64, depending on where
    their operands come from. The interpreter does not, and most tests compare in float64."""
    if INTERPRETED and hidden.dtype == torch.float64:
        return False
    return torch.float64 in (value.dtype, hidden.dtype)


def installed_version() -> str | None:
    """Return the version of Triton, or None if it is not installed."""
    if find_spec("triton") is None:
        return None
    for distribution in ("triton", "pytorch-triton"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return importlib.import_module("triton").__version__
