"""The networks of a model through torch.compile, for the duration of a step."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.distributions import Distribution

from ..models import LatentVariableModel

BACKEND = "inductor"
"""The backend of torch.compile; tests take one whose operations a recorder on the CPU can repeat."""

MOST_VARIANTS = 256
"""The most compiled variants of all networks of a process: structures, shapes of batches, training modes, frozen
parameters. Beyond torch's own limit, 8, networks would silently run uncompiled."""


def refusal(model: LatentVariableModel, device: torch.device) -> str | None:
    """Return the reason why torch.compile cannot serve the networks of a model on a device, or None."""
    if not model.networks:
        return f"{type(model).__name__} draws the weights of its networks in Python for each call"
    if device.type not in ("cpu", "cuda"):
        return f"the model is on {device}, but compiled networks are supported on cpu and cuda"
    if device.type == "cuda" and BACKEND == "inductor" and importlib.util.find_spec("triton") is None:
        return "on cuda it needs Triton, which is not installed"
    return None


def check(model: LatentVariableModel, device: torch.device) -> None:
    """Raise ValueError if torch.compile cannot serve the networks of a model on a device."""
    if (reason := refusal(model, device)) is not None:
        raise ValueError(f"compile must be False: torch.compile cannot serve this model: {reason}")


class CompiledNetworks:
    """A context in which the calls of a model's networks are compiled.

    Outside of it the modules are as they were, and inside of it they have the same parameters and names, so nothing
    that is saved differs. Networks that were compiled already stay as they are. Each network is compiled at its first
    call, once for each shape of a batch; models of the same structure share what is compiled.

    Args:
        model: a model, on its device.

    Raises:
        ValueError: torch.compile cannot serve the model.
        RuntimeError: the compiler failed, at the first call of a network in the context; the message has its reason.
    """

    def __init__(self, model: LatentVariableModel) -> None:
        check(model, next(model.parameters()).device)
        self._model = model
        # The graph of a step is captured around the compiled code, which must not make graphs of its own.
        options: dict[str, Any] = {"options": {"triton.cudagraphs": False}} if BACKEND == "inductor" else {}
        with _validating_distributions():
            self._calls: dict[nn.Module, Callable[..., Any]] = {
                network: torch.compile(_call_of(network), backend=BACKEND, dynamic=False, **options)
                for network in model.networks.values()
                if network._compiled_call_impl is None
            }
        self._limit: Any = None

    def __enter__(self) -> None:
        self._limit = torch._dynamo.config.patch(recompile_limit=MOST_VARIANTS)
        self._limit.__enter__()
        for network, call in self._calls.items():
            network._compiled_call_impl = call

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for network in self._calls:
            del network._compiled_call_impl  # the class has None
        self._limit.__exit__(None, None, None)
        if isinstance(error, torch._dynamo.exc.TorchDynamoException):
            reason = " ".join(str(error).partition("\n\n")[0].split())  # advice about debugging follows the blank line
            raise RuntimeError(
                f"torch.compile failed on a network of {type(self._model).__name__}: take steps with compile=False "
                f"({type(error).__name__}: {reason})"
            ) from error.with_traceback(trace)


@contextmanager
def _validating_distributions() -> Iterator[None]:
    """Keep torch.distributions' default of ``validate_args``: the first use of torch.compile turns it off for good."""
    default = Distribution._validate_args
    try:
        yield
    finally:
        Distribution.set_default_validate_args(default)


def _call_of(network: nn.Module) -> Callable[..., Any]:
    """Return a function that calls a network. Torch's compiler skips the code of torch.nn where it begins, so it would
    compile a Sequential in parts, or not at all."""

    def call(*arguments: Any, **options: Any) -> Any:
        return network._call_impl(*arguments, **options)

    return call
