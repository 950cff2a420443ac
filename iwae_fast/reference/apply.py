"""Application of autograd Functions at little cost, and to what only ordinary operations support."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.autograd import Function


def applied(function: type[Function]) -> Callable[..., Any]:
    """Return what to call in place of ``function.apply``, which costs tens of microseconds to inspect signatures, and
    ten more to build a node if no graph is recorded.

    While compiling, ``forward`` is called directly if no graph is recorded: the compiler would mistake its first
    argument for a context.
    """
    if torch._C._are_functorch_transforms_active():
        return function.apply
    if not torch.is_grad_enabled():
        return function.forward
    if not torch.compiler.is_compiling():
        return super(Function, function).apply  # type: ignore[misc]
    return partial(_apply_if_differentiable, function)


def _apply_if_differentiable(function: type[Function], *arguments: Any) -> Any:
    if any(isinstance(argument, Tensor) and argument.requires_grad for argument in arguments):
        return function.apply(*arguments)
    return function.forward(*arguments)


def elementwise(function: type[Function], *arguments: Tensor) -> Tensor:
    """Apply a Function whose forward pass consists of ordinary operations.

    Functions do not support forward-mode differentiation; there these operations are differentiated directly.
    """
    if not torch.compiler.is_compiling() and torch.autograd.forward_ad._current_level >= 0:
        return function.forward(*arguments)
    return applied(function)(*arguments)
