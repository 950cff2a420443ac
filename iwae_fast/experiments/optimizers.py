"""Adam as the published code of Burda, Grosse & Salakhutdinov (2016) has it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer


class PublishedAdam(Optimizer):
    """Adam with second moments that start at one and an epsilon that no correction of bias scales.

    step = lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps): the form before section 2.1 of Kingma & Ba (2015)
    is rearranged, of which ``torch.optim.Adam`` has the other.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.99, 0.999),
        eps: float = 1e-4,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient; returns what ``closure``, if given, does."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if parameters:
                self._update(parameters, group["lr"], group["betas"], group["eps"])
        return loss

    def _update(self, parameters: list[nn.Parameter], rate: float, betas: tuple[float, float], eps: float) -> None:
        states = [self._state(p) for p in parameters]
        gradients = [p.grad for p in parameters if p.grad is not None]
        first, second = [s["exp_avg"] for s in states], [s["exp_avg_sq"] for s in states]
        torch._foreach_lerp_(first, gradients, 1.0 - betas[0])
        torch._foreach_mul_(second, betas[1])
        torch._foreach_addcmul_(second, gradients, gradients, 1.0 - betas[1])
        denominators = torch._foreach_sqrt(second)
        torch._foreach_add_(denominators, eps)
        for parameter, state, moment, denominator in zip(parameters, states, first, denominators, strict=True):
            state["step"] += 1
            steps = state["step"].item()
            corrected = rate * math.sqrt(1.0 - betas[1] ** steps) / (1.0 - betas[0] ** steps)
            parameter.addcdiv_(moment, denominator, value=-corrected)

    def _state(self, parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        state = self.state[parameter]
        if not state:
            state.update(self.initial_state(parameter))
        return state

    @staticmethod
    def initial_state(parameter: nn.Parameter) -> dict[str, torch.Tensor]:
        """Before the first step."""
        return {
            "step": torch.zeros(()),
            "exp_avg": torch.zeros_like(parameter),
            "exp_avg_sq": torch.ones_like(parameter),
        }


def allocate_state(optimizer: Optimizer) -> None:
    """What an Adam would allocate at its first step, so that restoring can copy into it."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            if isinstance(optimizer, PublishedAdam):
                optimizer.state[parameter] = optimizer.initial_state(parameter)
            else:
                optimizer.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
