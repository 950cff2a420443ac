"""Static properties of modules: hooks, overridden methods, dtypes."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils.parametrize import is_parametrized

CALL, LINEAR = nn.Module.__call__, nn.Linear.forward
"""Torch's own definitions, saved at import in case they are replaced later."""

CALL_PARTS = ("__call__", "_wrapped_call_impl", "_call_impl")
"""The methods of ``nn.Module`` that lead from a call to ``forward``."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""The attributes that hold a module's hooks; with the prefix ``_global``, those of torch that hold global hooks."""


def has_hooks(module: nn.Module) -> bool:
    """Return True if forward or backward hooks are registered on the module."""
    return any(getattr(module, hooks) for hooks in HOOKS)


def has_global_hooks() -> bool:
    """Return True if global module hooks are registered."""
    return any(getattr(torch_module, f"_global{hooks}") for hooks in HOOKS)


def defines(owner: object, base: type, *methods: str) -> bool:
    """Return True if an object inherits the methods from the base class, without overrides in its class or instance."""
    return all(getattr(type(owner), name) is getattr(base, name) and name not in vars(owner) for name in methods)


def runs_forward(module: nn.Module) -> bool:
    """Return True if calling the module is certain to run its ``forward`` and nothing else, such as hooks."""
    return (
        type(module).__call__ is CALL
        and defines(module, nn.Module, *CALL_PARTS)
        and getattr(module, "_compiled_call_impl", None) is None
        and not has_hooks(module)
        and not has_global_hooks()
    )


def is_plain_linear(module: nn.Module) -> bool:
    """Return True if calling the module is certain to compute ``F.linear(input, module.weight, module.bias)``.

    This holds for nn.Linear itself, but not for its subclasses, except for the class that torch creates if the weight
    or bias is parametrized (``torch.nn.utils.parametrize``): such a weight is recomputed each time it is read.
    """
    own_class = type(module)
    if own_class is not nn.Linear and not (own_class.__bases__ == (nn.Linear,) and is_parametrized(module)):
        return False
    return own_class.forward is LINEAR and "forward" not in vars(module) and runs_forward(module)


def parameter_dtype(module: nn.Module, default: torch.dtype) -> torch.dtype:
    """Return the dtype of the module's first floating-point parameter, or the default if there is none.

    Parameters of other dtypes, such as packed low-bit weights, do not determine the dtype of a layer's input.
    """
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), default)


def as_parameters(module: nn.Module, z: Tensor) -> Tensor:
    """Convert z to the dtype of the module's parameters: noise and densities are at least float32, also for modules in
    half precision."""
    return z.to(parameter_dtype(module, z.dtype))
