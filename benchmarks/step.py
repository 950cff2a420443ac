"""A training step of the papers' network (zero_grad, loss, backward, Adam), and the check that its result is correct.

Every provider draws its own noise, so results are compared in the mean: the loss, and for each weight matrix W the
derivative of the loss along W itself, <dL/dW, W>. These reveal a wrong gradient anywhere between the loss and the first
layer.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import cache, partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from .networks import LEARNING_RATE, Setting, observations, vae, weight_matrices
from .work import Evidence, Task

EVALUATIONS = 24

BOUND = "loss"
"""The negated IWAE bound, in nats per observation."""

WEIGHTED = "minus the weighted mean of the log-weights"
"""-sum w~ log w: it differs from the negated bound in value, but has the same gradient if the weights w~ are held
fixed."""


class Step(NamedTuple):
    """The training step of a provider."""

    take: Callable[[], Tensor | float]
    """A function that takes the whole step and returns its loss, in nats per observation."""
    weights: Sequence[nn.Parameter]
    """The weight matrices, in the order of :func:`benchmarks.networks.weight_matrices`."""
    gradient_factor: float = 1.0
    """The gradients divided by those of the mean loss per observation."""
    value: str = BOUND
    """The name of the quantity that the loss is."""


def adam(parameters: Sequence[nn.Parameter], capturable: bool = False) -> torch.optim.Adam:
    return torch.optim.Adam(parameters, lr=LEARNING_RATE, fused=True, capturable=capturable)


def minimise(loss: Callable[[], Tensor], parameters: Sequence[nn.Parameter], value: str = BOUND) -> Step:
    """Return a step that is the body of the usual training loop."""
    optimizer = adam(parameters)

    def take() -> Tensor:
        optimizer.zero_grad()
        result = loss()
        result.backward()
        optimizer.step()
        return result.detach()

    return Step(take, weight_matrices(parameters), value=value)


def prepare(make: Callable[[Setting], Step], setting: Setting) -> Task:
    step = make(setting)
    torch.manual_seed(1)
    return Task(step.take, partial(figures, step))


def figures(step: Step) -> Evidence:
    """Measure loss and derivatives of repeated steps.

    Gradients are recorded by hooks, since a step may clear them afterwards. Replays do not run hooks, so after them the
    gradients are read from the weights.
    """
    found: dict[str, list[float]] = defaultdict(list)
    along: dict[int, float] = {}

    def catch(index: int, weight: Tensor) -> None:
        gradient = weight.grad
        along[index] = 0.0 if gradient is None else (gradient * weight.detach()).sum().item() / step.gradient_factor

    hooks = [
        weight.register_post_accumulate_grad_hook(partial(catch, index)) for index, weight in enumerate(step.weights)
    ]
    for _ in range(EVALUATIONS):
        along.clear()
        found[step.value].append(float(step.take()))
        for index, weight in enumerate(step.weights):
            if index not in along:
                catch(index, weight)
            found[along_name(index)].append(along[index])
    for hook in hooks:
        hook.remove()
    return {name: np.array(values) for name, values in found.items()}


@cache
def truth(setting: Setting) -> Evidence:
    """Compute the reference result in float64, without a fused loss."""
    model, x = vae(setting, backend="reference").double(), observations(setting).double()
    weights = weight_matrices(model.parameters())
    torch.manual_seed(2)
    found: dict[str, list[float]] = defaultdict(list)
    for _ in range(EVALUATIONS):
        log_weights = model.log_weights(x, setting.k)
        loss = (math.log(setting.k) - torch.logsumexp(log_weights, 0)).mean()
        found[BOUND].append(loss.item())
        found[WEIGHTED].append(-(torch.softmax(log_weights, 0) * log_weights).sum(0).mean().item())
        for index, (weight, gradient) in enumerate(zip(weights, torch.autograd.grad(loss, weights), strict=True)):
            found[along_name(index)].append((gradient * weight).sum().item())
    return {name: np.array(values) for name, values in found.items()}


def along_name(index: int) -> str:
    return f"derivative along weight matrix {index}"
