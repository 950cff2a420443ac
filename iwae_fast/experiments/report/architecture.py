"""The layers of a model, for reports."""

from __future__ import annotations

from typing import NamedTuple

from torch import nn


class Layer(NamedTuple):
    """A module that has parameters of its own."""

    name: str
    """Path of the module in the model, such as encoder.hidden.0."""
    kind: str
    """Name of its class."""
    sizes: str
    """The inputs and outputs of a linear layer, or the shape of each parameter."""
    parameters: int
    """Number of its parameters, without those of its submodules."""


def layers(model: nn.Module) -> list[Layer]:
    """List the modules with parameters, in the order of the model."""
    found = []
    for name, module in model.named_modules():
        own = dict(module.named_parameters(recurse=False))
        if own:
            count = sum(parameter.numel() for parameter in own.values())
            found.append(Layer(name or "(model)", type(module).__name__, _sizes(module, own), count))
    return found


def _sizes(module: nn.Module, own: dict[str, nn.Parameter]) -> str:
    if isinstance(module, nn.Linear):
        return f"{module.in_features} \N{RIGHTWARDS ARROW} {module.out_features}"
    return ", ".join(f"{name} {tuple(parameter.shape)}" for name, parameter in own.items())
