"""What is known not to survive in a graph, which repeats kernels and nothing that Python does."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, Optimizer

from ..bounds import Bound
from ..modules import has_global_hooks, has_hooks
from ..objectives.objective import Objective


def obstacle(objective: Objective, model: nn.Module, optimizer: Optimizer) -> str | None:
    """Why a step of these cannot be captured, as far as it shows without running one; None where nothing speaks
    against it."""
    return _of_objective(objective) or _of_model(model) or _of_optimizer(optimizer)


def _of_objective(objective: Objective) -> str | None:
    if objective.tolerance is not None:
        return "tolerance: how many samples run backward depends on the data, for which the host waits"
    if type(objective.bound).for_call is not Bound.for_call:
        return f"{objective.bound!r} draws its number of samples on the host"
    if callable(objective.kl_weight):
        return "kl_weight is a schedule: its numbers are the host's"
    return None


def _of_model(model: nn.Module) -> str | None:
    devices = {str(parameter.device) for parameter in model.parameters()}
    if len(devices) > 1:
        return f"the model is on several devices: {', '.join(sorted(devices))}"
    if has_global_hooks():
        return "there are hooks for the calls of all modules, which a replay would leave out"
    for name, module in model.named_modules():
        if has_hooks(module):
            return f"{name or 'the model'} ({type(module).__name__}) has hooks, which a replay would leave out"
    for name, parameter in model.named_parameters():
        if parameter._backward_hooks or parameter._post_accumulate_grad_hooks:
            return f"the parameter {name} has hooks, which a replay would leave out"
    return None


def _of_optimizer(optimizer: Optimizer) -> str | None:
    name = type(optimizer).__name__
    for group in optimizer.param_groups:
        if type(optimizer) is SGD:
            if not group["fused"]:
                return "SGD reads its learning rate on the host: build it with fused=True"
        elif "capturable" not in group:
            return f"{name} has no setting 'capturable', so what it does on the host is not known"
        elif not group["capturable"]:
            return f"{name} counts its steps on the host: build it with capturable=True"
    return None


def settings(optimizer: Optimizer) -> tuple[Any, ...]:
    """The optimizer's own settings by group, without learning rates: what a graph holds fixed, comparable."""
    names = [name for name in optimizer.defaults if name != "lr"]
    return tuple(
        (len(group["params"]), *(_comparable(group.get(name)) for name in names)) for group in optimizer.param_groups
    )


def _comparable(value: Any) -> Any:
    """A tensor by which it is, since a graph reads what it holds."""
    if isinstance(value, tuple | list):
        return tuple(_comparable(each) for each in value)
    return value if isinstance(value, bool | int | float | str | None) else id(value)
