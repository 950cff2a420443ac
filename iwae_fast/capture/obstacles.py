"""Known obstacles to capturing a step: a graph repeats kernels, but not the Python code that launched them."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer

from ..bounds import Bound
from ..modules import has_global_hooks, has_hooks
from ..objectives.objective import Objective


def obstacle(objective: Objective, model: nn.Module, optimizer: Optimizer) -> str | None:
    """Return the reason why a step cannot be captured, as far as can be told without running it, or None."""
    return _of_objective(objective) or of_model(model) or _of_optimizer(optimizer)


def _of_objective(objective: Objective) -> str | None:
    if objective.tolerance is not None:
        return "tolerance: the number of samples in the backward pass depends on the data, so the host must synchronize"
    if type(objective.bound).for_call is not Bound.for_call:
        return f"{objective.bound!r} draws its number of samples on the host"
    if callable(objective.kl_weight):
        return "kl_weight is a schedule: its values are computed on the host"
    return None


def of_model(model: nn.Module) -> str | None:
    """Return the reason why calls of a model cannot be captured, or None."""
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) > 1:
        return f"the model is on several devices: {', '.join(sorted(devices))}"
    if has_global_hooks():
        return "global module hooks are registered, which a replay would not call"
    for name, module in model.named_modules():
        if has_hooks(module):
            return f"{name or 'the model'} ({type(module).__name__}) has hooks, which a replay would not call"
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return f"the parameter {name} has hooks, which a replay would not call"
    return None


def _of_optimizer(optimizer: Optimizer) -> str | None:
    name = type(optimizer).__name__
    for group in optimizer.param_groups:
        if type(optimizer) is SGD:
            if not group["fused"]:
                return "SGD reads its learning rate on the host: build it with fused=True"
        elif "capturable" not in group:
            return f"{name} does not have a 'capturable' setting, so it may compute on the host"
        elif not group["capturable"]:
            return f"{name} counts its steps on the host: build it with capturable=True"
    return None


def settings(optimizer: Optimizer) -> tuple[Any, ...]:
    """Return the optimizer's settings per group, without learning rates, in a form that can be compared.

    A graph has these settings baked in.
    """
    names = [name for name in optimizer.defaults if name != "lr"]
    return tuple(
        (len(group["params"]), *(_comparable(group.get(name)) for name in names)) for group in optimizer.param_groups
    )


def _comparable(value: Any) -> Any:
    """Return a comparable form of a setting; tensors are compared by identity, since a graph reads their memory."""
    if isinstance(value, tuple | list):
        return tuple(_comparable(each) for each in value)
    return value if isinstance(value, bool | int | float | str | None) else id(value)
