"""Temporary evaluation mode of a model."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Concatenate, ParamSpec, TypeVar

import torch
from torch import nn

Model = TypeVar("Model", bound=nn.Module)
Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put every module of the model into evaluation mode, and restore the mode of each at the end."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def evaluating(
    method: Callable[Concatenate[Model, Arguments], Result],
) -> Callable[Concatenate[Model, Arguments], Result]:
    """Decorate a method of a model to run in evaluation mode and without gradients."""

    @functools.wraps(method)
    def evaluated(model: Model, /, *arguments: Arguments.args, **options: Arguments.kwargs) -> Result:
        with torch.no_grad(), evaluation_mode(model):
            return method(model, *arguments, **options)

    return evaluated
