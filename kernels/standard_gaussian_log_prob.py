"""log N(value; 0, 1), summed over the last axis: -v^2 / 2 - log(2 pi) / 2."""

from __future__ import annotations

import triton
import triton.language as tl  # noqa: F401  (the interpreter wants it in every file of kernels)
from torch import Tensor

from .density import Density
from .density_backward import log_prob_backward
from .density_forward import log_prob
from .gaussian_log_prob import HALF_LOG_2PI


@triton.jit
def accumulate(tiles, linear, factors):
    return linear - 0.5 * tiles[0] * tiles[0], factors


@triton.jit
def gradients(tiles):
    return (-tiles[0],)


STANDARD_GAUSSIAN = Density(accumulate, gradients, neutral=(0.0,), constant=-HALF_LOG_2PI)


def standard_gaussian_log_prob(value: Tensor, mask: Tensor | None) -> Tensor:
    return log_prob(STANDARD_GAUSSIAN, (value,), mask)


def standard_gaussian_log_prob_backward(
    grad: Tensor, value: Tensor, mask: Tensor | None, needs: list[bool]
) -> list[Tensor]:
    return log_prob_backward(STANDARD_GAUSSIAN, grad, (value,), mask, needs)
