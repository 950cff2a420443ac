"""How a work is made of an op: its providers, what is true, and the bytes it must move."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iwae_fast.backends import NATIVE

from .harness import Provider, Work

Op = Callable[..., Any]
"""Takes the inputs and returns a tensor, or a tuple of them."""


def work(
    op: str,
    mode: str,
    shape: str,
    ours: Op,
    rivals: dict[str, Op],
    inputs: Sequence[Tensor],
    leaves: Sequence[int],
    own_noise: bool = False,
) -> Work:
    """``ours`` takes ``backend=`` besides. ``leaves`` are the indices of the inputs that get a gradient.

    Each rival is timed as it is, and the first through torch.compile too. With ``own_noise`` the rivals draw theirs.
    """
    device, dtype = inputs[0].device, inputs[-1].dtype
    ops: dict[str, Op] = {**rivals, "torch.compile": torch.compile(next(iter(rivals.values())), dynamic=False)}
    incomparable = frozenset(ops) if own_noise else frozenset()
    for backend in backends(device):
        ops[f"iwae_fast {backend}"] = lambda *t, backend=backend: ours(*t, backend=backend)
    provide = forward if mode == "forward" else partial(forward_backward, leaves=leaves)
    truth = provide(lambda *t: ours(*t, backend="reference"), [t.double() for t in inputs])()
    results = provide(ops[f"iwae_fast {backends(device)[0]}"], inputs)()
    read = sum(t.numel() * t.element_size() for t in inputs) * (1 if mode == "forward" else 2)
    written = sum(t.numel() * t.element_size() for t in results)
    return Work(
        op=op,
        mode=mode,
        shape=shape,
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        providers={name: provide(function, inputs) for name, function in ops.items()},
        truth=truth,
        bytes=read + written,
        tolerance=1e-4 if dtype == torch.float32 else 2e-2,
        incomparable=incomparable,
    )


def backends(device: torch.device) -> list[str]:
    """Those with kernels that run on the device."""
    return [name for name, module in NATIVE.items() if device.type == module.DEVICE and module.unavailable() is None]


def forward(function: Op, inputs: Sequence[Tensor]) -> Provider:
    def run() -> Sequence[Tensor]:
        with torch.no_grad():
            return _tuple(function(*inputs))

    return run


def forward_backward(function: Op, inputs: Sequence[Tensor], leaves: Sequence[int]) -> Provider:
    """The results under incoming gradients of one, and the gradients of the leaves."""
    own = [t.detach().requires_grad_() if index in leaves else t for index, t in enumerate(inputs)]
    incoming: list[Tensor] = []

    def run() -> Sequence[Tensor]:
        results = _tuple(function(*own))
        if not incoming:
            incoming.extend(torch.ones_like(r) for r in results)
        gradients = torch.autograd.grad(results, [own[index] for index in leaves], incoming)
        return [*(r.detach() for r in results), *gradients]

    return run


def _tuple(results: Any) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)
