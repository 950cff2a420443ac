"""The optimizers of the papers' protocols."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..backends import REFERENCE
from ..ops.adam import serving
from ..optim import Adam
from ..reference.adam import AdamSettings


def adam(
    parameters: Iterable[nn.Parameter],
    lr: float,
    betas: tuple[float, float],
    eps: float,
    max_norm: float | None = None,
) -> Optimizer:
    """Return the package's Adam where a backend has kernels for it, or where gradients are clipped to ``max_norm``, and
    torch's fused one elsewhere: they make the same updates to rounding, and have the same state."""
    parameters = list(parameters)
    if max_norm is not None or serving(parameters[0]) != REFERENCE:
        return Adam(parameters, lr, betas, eps, max_norm=max_norm)
    return torch.optim.Adam(parameters, lr, betas, eps, fused=True, capturable=True)


class PublishedAdam(Adam):
    """Adam as in the published code of Burda, Grosse & Salakhutdinov (2016), with second moments initialized to one and
    an epsilon that the bias correction does not scale.

    step = lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps): the rearranged form just before section 2.1 of
    Kingma & Ba (2015), whereas ``torch.optim.Adam`` implements the original one.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.99, 0.999),
        eps: float = 1e-4,
        max_norm: float | None = None,
    ) -> None:
        super().__init__(params, lr, betas, eps, max_norm=max_norm)

    def _first_second_moment(self, parameter: Tensor) -> Tensor:
        return torch.ones_like(parameter, memory_format=torch.preserve_format)

    def _settings(self, group: dict[str, Any]) -> AdamSettings:
        return super()._settings(group)._replace(corrects_eps=True)


def allocate_state(optimizer: Optimizer) -> None:
    """Allocate the state that Adam allocates at its first step, so that restoring can copy into it."""
    if isinstance(optimizer, Adam):
        optimizer.allocate()
        return
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = {
                "step": torch.zeros((), device=parameter.device),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.zeros_like(parameter),
            }
