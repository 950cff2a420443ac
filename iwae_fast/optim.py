"""Adam and AdamW whose step is one launch for all parameters: on the CPU one loop, on a GPU one kernel."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from .ops.adam import DTYPES, adam, serving, sum_squares
from .reference.adam import AdamExtras, AdamSettings, AdamTensors

__all__ = ["Adam", "AdamW"]

OWN = {"amsgrad": False, "foreach": False, "capturable": True, "differentiable": False, "fused": True}
"""Settings of torch's Adam that are fixed here. They are kept in the parameter groups, so that torch's Adam can load
the state."""


class Adam(Optimizer):
    """Adam (Kingma & Ba 2015) for all parameters in one launch: the updates of ``torch.optim.Adam`` to rounding.

        optimizer = iw.optim.Adam(model.parameters(), lr=1e-3, max_norm=1.0)

    ``state_dict()`` is that of ``torch.optim.Adam`` with ``fused=True, capturable=True``: each loads the other's. Steps
    are counted on the device, and nothing synchronizes with it, so CUDA graphs and :class:`iwae_fast.CapturedStep` can
    capture a step. A ``GradScaler`` works as with torch's fused Adam: the step divides the gradients by the loss scale,
    and is skipped if one of them is not finite.

    Parameters are float32, float64 or bfloat16, and the state has their dtype. On the CPU and on GPUs a step is one
    launch of the package's kernels: CUDA C++ where it was built, else Triton, with a second launch to count steps.
    Clipping adds a launch. Parameters on other devices, and tensor subclasses, are updated in plain torch.

    Args:
        params: parameters, or dicts of parameters and settings, as in torch.
        lr: the learning rate, a number or a tensor of one element, which is read at each step.
        betas: the decay rates of the moments, each in [0, 1).
        eps: the number added to the square root of the second moment.
        weight_decay: the factor of the L2 penalty, at least 0.
        amsgrad: must be False.
        foreach: must be None or False.
        maximize: ascend the objective instead of descending it.
        capturable: has no effect: steps can always be captured.
        differentiable: must be False.
        fused: must be None or True.
        decoupled_weight_decay: apply weight decay to the parameters instead of the gradients, as :class:`AdamW` does.
        max_norm: clip the gradients of all parameters together to this norm, as ``torch.nn.utils.clip_grad_norm_`` does
            before a step, but without changing ``.grad``; None to leave them as they are. All parameters must then be
            on one device.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        foreach: bool | None = None,
        maximize: bool = False,
        capturable: bool = False,  # noqa: ARG002
        differentiable: bool = False,
        fused: bool | None = None,
        decoupled_weight_decay: bool = False,
        max_norm: float | None = None,
    ) -> None:
        if max_norm is not None and not max_norm >= 0.0:
            raise ValueError(f"max_norm must be None or at least 0, got {max_norm}")
        self.max_norm = max_norm
        """The norm to which gradients are clipped, or None."""
        self._turns: dict[torch.device, Tensor] = {}
        given = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay, "maximize": maximize}
        asked = {"amsgrad": amsgrad, "foreach": foreach, "differentiable": differentiable, "fused": fused}
        _refuse(asked)
        super().__init__(params, {**given, **OWN, "decoupled_weight_decay": decoupled_weight_decay})

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group of parameters, as in torch; raise TypeError or ValueError for what is not supported."""
        _refuse(param_group)
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        group.update(OWN)
        try:
            _check_numbers(group)
            for index, parameter in enumerate(group["params"]):
                _check_parameter(index, parameter)
        except (TypeError, ValueError):
            self.param_groups.pop()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load a state of this class or of torch's Adam or AdamW; raise ValueError for one of amsgrad."""
        for group in state_dict["param_groups"]:
            _refuse({"amsgrad": group.get("amsgrad", False)})
        super().load_state_dict(state_dict)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "max_norm": self.max_norm}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Restore a pickled or loaded state, whose tensors are then not shared with any other optimizer."""
        super().__setstate__(state)
        self.__dict__.setdefault("_turns", {})
        for group in self.param_groups:
            group.update(OWN)
            for parameter in group["params"]:
                if own := self.state.get(parameter):
                    step = torch.as_tensor(own["step"], dtype=torch.float32, device=parameter.device)
                    own["step"] = step.clone()  # in torch's state and in earlier ones, parameters may share it

    def allocate(self, parameters: Iterable[Tensor] | None = None) -> None:
        """Allocate the state of parameters (by default all) that have none yet, as the first step does."""
        for parameter in self._all() if parameters is None else parameters:
            if not self.state[parameter]:
                self.state[parameter] = {
                    "step": torch.zeros((), device=parameter.device, dtype=torch.float32),
                    "exp_avg": torch.zeros_like(parameter, memory_format=torch.preserve_format),
                    "exp_avg_sq": self._first_second_moment(parameter),
                }

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; return the result of ``closure`` if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        batches = self._batches()
        squares = self._squares(batches)
        for batch in batches:
            extras = AdamExtras(self._amp("grad_scale", batch), self._amp("found_inf", batch), squares)
            adam(batch.tensors, self._settings(batch.group), extras, self._turns_of(batch.device), batch.backend)
            batch.finish()
        return loss

    def _first_second_moment(self, parameter: Tensor) -> Tensor:
        return torch.zeros_like(parameter, memory_format=torch.preserve_format)

    def _settings(self, group: dict[str, Any]) -> AdamSettings:
        return AdamSettings(
            group["lr"],
            group["betas"][0],
            group["betas"][1],
            group["eps"],
            group["weight_decay"],
            group["decoupled_weight_decay"],
            group["maximize"],
            max_norm=self.max_norm,
        )

    def _all(self) -> list[Tensor]:
        return [parameter for group in self.param_groups for parameter in group["params"]]

    def _batches(self) -> list[_Batch]:
        """Return the parameters that have gradients, by group, device, dtype and type."""
        batches: list[_Batch] = []
        for group in self.param_groups:
            found: dict[Any, _Batch] = {}
            for parameter in group["params"]:
                gradient = parameter.grad
                if gradient is None:
                    continue
                key = parameter.device, parameter.dtype, type(parameter)
                if (batch := found.get(key)) is None:
                    found[key] = batch = _Batch(group, serving(parameter), parameter.device)
                    batches.append(batch)
                if not (state := self.state[parameter]):
                    self.allocate([parameter])
                    state = self.state[parameter]
                batch.add(parameter, gradient, state)
        return batches

    def _squares(self, batches: Sequence[_Batch]) -> Tensor | None:
        if self.max_norm is None or not batches:
            return None
        if len(devices := {batch.device for batch in batches}) > 1:
            raise ValueError(f"max_norm needs all parameters on one device, got {', '.join(sorted(map(str, devices)))}")
        parts = [sum_squares(batch.tensors.gradients, batch.backend) for batch in batches]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _amp(self, name: str, batch: _Batch) -> Tensor | None:
        """Return a tensor that a GradScaler has set for this step, on the batch's device."""
        tensor = getattr(self, name, None)
        return None if tensor is None else tensor.to(batch.device, torch.float32, non_blocking=True)

    def _turns_of(self, device: torch.device) -> Tensor:
        if device not in self._turns:
            self._turns[device] = torch.zeros((), dtype=torch.int32, device=device)
        return self._turns[device]


class AdamW(Adam):
    """AdamW (Loshchilov & Hutter 2019): :class:`Adam` with decoupled weight decay, the updates of
    ``torch.optim.AdamW`` to rounding.

    Args:
        params, lr, betas, eps, amsgrad, maximize, foreach, capturable, differentiable, fused, max_norm: as in
            :class:`Adam`.
        weight_decay: each step multiplies the parameters by 1 - lr * weight_decay.
    """

    def __init__(
        self,
        params: Any,
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        **options: Any,
    ) -> None:
        if "decoupled_weight_decay" in options:
            raise TypeError("AdamW does not take decoupled_weight_decay: its weight decay is always decoupled")
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, decoupled_weight_decay=True, **options)


class _Batch:
    """Parameters of one group, device and dtype, with their gradients and state in blocks of memory of one layout."""

    def __init__(self, group: dict[str, Any], backend: str, device: torch.device) -> None:
        self.group, self.backend, self.device = group, backend, device
        self.parameters: list[Tensor] = []
        self._lists: tuple[list[Tensor], ...] = ([], [], [], [], [])
        self.tensors = AdamTensors(*self._lists)
        self._copies: list[tuple[Tensor, Tensor]] = []

    def add(self, parameter: Tensor, gradient: Tensor, state: dict[str, Tensor]) -> None:
        if gradient.layout is not torch.strided:
            raise TypeError(f"gradients must be dense tensors, got one that is {gradient.layout}")
        self.parameters.append(parameter)
        first, second = state["exp_avg"], state["exp_avg_sq"]
        if not (
            parameter.is_contiguous() and gradient.is_contiguous() and first.is_contiguous() and second.is_contiguous()
        ):
            parameter, gradient, first, second = self._laid_out(parameter, gradient, first, second)
        parameters, gradients, firsts, seconds, steps = self._lists
        parameters.append(parameter)
        gradients.append(gradient)
        firsts.append(first)
        seconds.append(second)
        steps.append(state["step"])

    @torch.no_grad()
    def _laid_out(self, *tensors: Tensor) -> tuple[Tensor, ...]:
        """Return the tensors in one layout: that of the parameter if it fills its memory. Others are copied."""
        strides = torch.empty_like(tensors[0], device="meta", memory_format=torch.preserve_format).stride()
        made = []
        for tensor in tensors:
            if tensor.stride() != strides:
                copy = torch.empty_strided(tensor.shape, strides, dtype=tensor.dtype, device=tensor.device)
                self._copies.append((tensor, copy.copy_(tensor)))
                tensor = copy
            made.append(tensor)
        return tuple(made)

    @torch.no_grad()
    def finish(self) -> None:
        """Copy results to the tensors of other layouts, and make autograd notice the change of the parameters."""
        for tensor, copy in self._copies:
            tensor.copy_(copy)
        torch.autograd.graph.increment_version(self.parameters)


def _refuse(settings: dict[str, Any]) -> None:
    """Raise ValueError if torch's settings ask for what the kernels do not do."""
    for name, allowed in (("amsgrad", (False,)), ("foreach", (None, False)), ("differentiable", (False,))):
        if settings.get(name, False) not in allowed:
            raise ValueError(f"{name} must be {' or '.join(map(str, allowed))}, got {settings[name]}: use torch.optim")
    if settings.get("fused", True) not in (None, True):
        raise ValueError(f"fused must be None or True, got {settings['fused']}: use torch.optim")


def _check_numbers(group: dict[str, Any]) -> None:
    lr = group["lr"]
    if isinstance(lr, Tensor):
        if lr.numel() != 1:
            raise ValueError(f"lr must be a number or a tensor of one element, got one of shape {tuple(lr.shape)}")
    elif not lr >= 0.0:
        raise ValueError(f"lr must be at least 0, got {lr}")
    betas = group["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 2 or any(isinstance(beta, Tensor) for beta in betas):
        raise TypeError(f"betas must be two numbers, got {betas}")
    if not all(0.0 <= beta < 1.0 for beta in betas):
        raise ValueError(f"betas must be in [0, 1), got {tuple(betas)}")
    for name in ("eps", "weight_decay"):
        if not group[name] >= 0.0 or not math.isfinite(group[name]):
            raise ValueError(f"{name} must be at least 0 and finite, got {group[name]}")


def _check_parameter(index: int, parameter: Tensor) -> None:
    if parameter.layout is not torch.strided:
        raise TypeError(f"parameter {index} must be a dense tensor, got one that is {parameter.layout}")
    if parameter.dtype not in DTYPES:
        raise TypeError(f"parameter {index} must be float32, float64 or bfloat16, got {parameter.dtype}")
