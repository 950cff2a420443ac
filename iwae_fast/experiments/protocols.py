"""Training protocols of the papers: learning rate by stage, optimizer, batch size, initialization, validation set."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn
from torch.optim import Optimizer

from .optimizers import PublishedAdam, adam

STAGES = 8
"""Stages of Burda, Grosse & Salakhutdinov (2016): stage i = 0 .. 7 has 3^i passes, 3280 in all."""


def passes(stages: int) -> int:
    """Return the passes over the training set in the first ``stages`` stages: 1 + 3 + 9 + ... = (3^stages - 1) / 2."""
    return (3**stages - 1) // 2


def stage(epoch: int) -> int:
    """Return the stage of a pass, both counted from 0; passes after the last stage belong to it."""
    index = 0
    while index < STAGES - 1 and passes(index + 1) <= epoch:
        index += 1
    return index


Factory = Callable[[Iterable[nn.Parameter], float, float | None], Optimizer]


@dataclass(frozen=True)
class Protocol:
    """A training protocol; the learning rate of a stage is the run's learning rate times the stage's factor."""

    source: str
    optimizer: Factory
    """Factory of the optimizer from parameters, a learning rate, and the norm to which gradients are clipped."""
    factors: tuple[float, ...] = (1.0,)
    """Factors of the learning rate, one per stage."""
    reduction: str = "mean"
    """Reduction of the loss over a batch."""
    initialize: Callable[[nn.Module], None] | None = None
    """Function that reinitializes the model; None for the model's own initialization."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Default settings of a run."""
    by_dataset: Mapping[str, Mapping[str, object]] = field(default_factory=dict)
    """Default settings of a run on a data set, which take precedence over ``settings``."""

    def factor(self, epoch: int, stages: int = STAGES) -> float:
        """Return the learning rate's factor in a pass, counted from 0; passes after ``stages`` keep the last factor."""
        return self.factors[min(stage(epoch), stages - 1, len(self.factors) - 1)]


def _adam(eps: float) -> Factory:
    return lambda parameters, rate, norm: adam(parameters, rate, (0.9, 0.999), eps, norm)


@torch.no_grad()
def uniform_by_inputs(model: nn.Module) -> None:
    """Draw weights from U(-1/sqrt(n), 1/sqrt(n)), n being the inputs of the layer, and set biases to 0."""
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.uniform_(module.weight, -1.0 / math.sqrt(module.in_features), 1.0 / math.sqrt(module.in_features))
            if module.bias is not None:
                nn.init.zeros_(module.bias)


BY_STAGE = tuple(10.0 ** (-index / 7) for index in range(STAGES))
BURDA = {"batch_size": 20, "learning_rate": 1e-3, "epochs": passes(STAGES)}

PROTOCOLS = {
    "constant": Protocol("one learning rate, and Adam as in Burda, Grosse & Salakhutdinov (2016)", _adam(1e-4)),
    "paper": Protocol("Burda, Grosse & Salakhutdinov (2016), as in the paper", _adam(1e-4), BY_STAGE, settings=BURDA),
    "code": Protocol(
        "Burda, Grosse & Salakhutdinov (2016), as in their published code",
        lambda parameters, rate, norm: PublishedAdam(parameters, rate, (0.99, 0.999), 1e-4, norm),
        (1.0, 0.72, 0.52, 0.37, 0.27, 0.19, 0.14, 0.1),
        reduction="sum",
        settings=BURDA,
        by_dataset={"mnist": {"validation": 400}, "omniglot": {"validation": 1345}},
    ),
    "dd2434": Protocol(
        "a reproduction report (DD2434, 2024)",
        _adam(1e-4),
        BY_STAGE,
        initialize=uniform_by_inputs,
        settings={**BURDA, "batch_size": 48, "seed": 42},
        by_dataset={"omniglot": {"batch_size": 45}},
    ),
    "iwaer": Protocol(
        "importance-weighted autoencoders with random weights: Adam with torch's defaults",
        _adam(1e-8),
        settings={"batch_size": 100, "learning_rate": 1e-3, "epochs": 500, "k": 25, "hidden": (400,), "latent": 20},
    ),
}
"""Protocols by their names on the command line."""
