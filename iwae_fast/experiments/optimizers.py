"""Adam as in the published code of Burda, Grosse & Salakhutdinov (2016)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class PublishedAdam(Optimizer):
    """Adam with second moments initialized to one and an epsilon that the bias correction does not scale.

    step = lr sqrt(1 - beta2^t) / (1 - beta1^t) m / (sqrt(v) + eps): the rearranged form just before section 2.1 of
    Kingma & Ba (2015), whereas ``torch.optim.Adam`` implements the original one.

    Steps are counted on the device, and the learning rate may be a tensor there, so that CUDA graphs can capture a
    step.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.99, 0.999),
        eps: float = 1e-4,
    ) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "capturable": True})

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Update every parameter that has a gradient; return the result of ``closure`` if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            self.allocate([p for p in parameters if not self.state[p]])
            for step, together in self._by_count(parameters):
                self._update(step, together, group["lr"], group["betas"], group["eps"])
        return loss

    def allocate(self, parameters: Sequence[nn.Parameter]) -> None:
        """Allocate the state before a first step; these parameters share a step count until a state is loaded."""
        counts: dict[torch.device, Tensor] = {}
        for parameter in parameters:
            device = parameter.device
            self.state[parameter] = {
                "step": counts.setdefault(device, torch.zeros((), device=device)),
                "exp_avg": torch.zeros_like(parameter),
                "exp_avg_sq": torch.ones_like(parameter),
            }

    def _by_count(self, parameters: Sequence[nn.Parameter]) -> Iterable[tuple[Tensor, list[nn.Parameter]]]:
        found: dict[int, tuple[Tensor, list[nn.Parameter]]] = {}
        for parameter in parameters:
            step = self.state[parameter]["step"]
            found.setdefault(id(step), (step, []))[1].append(parameter)
        return found.values()

    def _update(
        self,
        step: Tensor,
        parameters: list[nn.Parameter],
        rate: float | Tensor,
        betas: tuple[float, float],
        eps: float,
    ) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        first = [self.state[p]["exp_avg"] for p in parameters]
        second = [self.state[p]["exp_avg_sq"] for p in parameters]
        step += 1
        # In float64: 1 - beta^t loses precision for small t.
        steps = step.double()
        corrected = torch.sqrt(1.0 - betas[1] ** steps) / (1.0 - betas[0] ** steps) * rate
        torch._foreach_lerp_(first, gradients, 1.0 - betas[0])
        torch._foreach_mul_(second, betas[1])
        torch._foreach_addcmul_(second, gradients, gradients, 1.0 - betas[1])
        denominators = torch._foreach_sqrt(second)
        torch._foreach_add_(denominators, eps)
        torch._foreach_div_(denominators, -corrected.to(denominators[0].dtype))
        torch._foreach_addcdiv_(cast(list[Tensor], parameters), first, denominators)


def allocate_state(optimizer: Optimizer) -> None:
    """Allocate the state that Adam allocates at its first step, so that restoring can copy into it."""
    for group in optimizer.param_groups:
        if isinstance(optimizer, PublishedAdam):
            optimizer.allocate(group["params"])
        else:
            for parameter in group["params"]:
                optimizer.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device),
                    "exp_avg": torch.zeros_like(parameter),
                    "exp_avg_sq": torch.zeros_like(parameter),
                }
