"""What is certain about a module without calling it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module
from torch.nn.utils.parametrize import is_parametrized

CALL, LINEAR = nn.Module.__call__, nn.Linear.forward
"""As torch defines them, whatever is put in their place later."""

CALL_PARTS = ("__call__", "_wrapped_call_impl", "_call_impl")
"""The methods of ``nn.Module`` that lead from a call to ``forward``."""

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
"""The attributes of a module, and with ``_global`` before them of torch, that hold what wants to see its calls."""


def has_hooks(module: nn.Module) -> bool:
    """Return whether hooks of the module want to see its calls."""
    return any(getattr(module, hooks) for hooks in HOOKS)


def has_global_hooks() -> bool:
    """Return whether hooks want to see the calls of all modules."""
    return any(getattr(torch_module, f"_global{hooks}") for hooks in HOOKS)


def defines(owner: object, base: type, *methods: str) -> bool:
    """Return whether an object has the methods of a base class, which neither its class nor itself overrides."""
    return all(getattr(type(owner), name) is getattr(base, name) and name not in vars(owner) for name in methods)


def runs_forward(module: nn.Module) -> bool:
    """Return whether a call of the module is certain to be its ``forward`` and nothing else, which nobody watches."""
    return (
        type(module).__call__ is CALL
        and defines(module, nn.Module, *CALL_PARTS)
        and getattr(module, "_compiled_call_impl", None) is None
        and not has_hooks(module)
        and not has_global_hooks()
    )


def is_plain_linear(module: nn.Module) -> bool:
    """Return whether a call of the module is certain to be ``F.linear(input, module.weight, module.bias)``.

    That is so of nn.Linear itself, not of its subclasses, and of the class that torch makes of it where its weight or
    bias is parametrized (``torch.nn.utils.parametrize``): such a weight is computed anew each time that it is read.
    """
    own_class = type(module)
    if own_class is not nn.Linear and not (own_class.__bases__ == (nn.Linear,) and is_parametrized(module)):
        return False
    return own_class.forward is LINEAR and "forward" not in vars(module) and runs_forward(module)


def parameter_dtype(module: nn.Module, default: torch.dtype) -> torch.dtype:
    """Return the dtype of the module's first floating parameter, or the default where it has none.

    Parameters of other dtypes, such as packed weights of a few bits, say nothing about a layer's input.
    """
    return next((p.dtype for p in module.parameters() if p.is_floating_point()), default)


def as_parameters(module: nn.Module, z: Tensor) -> Tensor:
    """Return z in the dtype that a module of half precision takes: noise and densities are float32 at least."""
    return z.to(parameter_dtype(module, z.dtype))
