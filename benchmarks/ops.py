"""How a work is made of an op: its providers, what is true, and the bytes it must move."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from iwae_fast.backends import NATIVE
from iwae_fast.dtypes import WIDE

from . import agreement
from .work import BASELINE, Check, Evidence, Provider, Task, Work

Op = Callable[..., Any]
"""Takes the inputs and returns a tensor, or a tuple of them. Picklable."""

Inputs = Callable[[], list[Tensor]]
"""Makes the inputs, the same at every call. Picklable."""

Call = Callable[[], Sequence[Tensor]]
"""The op on its inputs: the results, and the gradients after them."""

Measurement = Callable[[Call, list[Tensor]], Evidence]
"""The evidence of a call, given its inputs. Picklable."""


def op_work(
    op: str,
    mode: str,
    shape: str,
    k: int,
    ours: Op,
    eager: Op,
    inputs: Inputs,
    leaves: Sequence[int],
    own_noise: Measurement | None = None,
    at_once: bool = False,
    rivals: Mapping[str, Op] | None = None,
    nats: Op | None = None,
) -> Work:
    """``ours`` takes ``backend=`` besides; ``eager`` is timed as it is, and through torch.compile. That of a backward
    pass alone is left out: what is compiled keeps what it likes for it, and gives it away.

    ``leaves`` are the indices of the inputs that get a gradient. With ``own_noise`` the rivals draw theirs, and are
    checked by the figures that it measures. ``at_once`` says that one look at the inputs is enough for both passes.
    ``rivals`` are further ones, by name. ``nats`` makes of the inputs the sum of the absolute values of what each
    log-weight is a sum of, which is the condition number of a loss and of its gradients.
    """
    tensors = inputs()
    device, dtype = tensors[0].device, tensors[0].dtype
    results = call(partial(ours, backend=backends(device)[0]), tensors, mode, leaves)()
    read = sum(t.nbytes for t in tensors) * (2 if mode == "forward+backward" and not at_once else 1)
    written = sum(t.nbytes for t in results)
    tolerance = 1e-4 if dtype == torch.float32 else 2e-2
    if nats is not None:
        tolerance = agreement.tolerance_of_weights(tolerance, float(nats(*tensors).max()))
    exact = Check(
        partial(truth, ours, inputs, mode, leaves, entries), partial(agreement.of_entries, tolerance=tolerance)
    )
    theirs = exact
    if own_noise is not None:
        theirs = Check(partial(truth, ours, inputs, mode, leaves, own_noise), agreement.of_means)
    measured = own_noise or entries
    plain = {BASELINE: (prepare, eager), "torch.compile": (prepare_compiled, eager)}
    if mode == "backward":
        del plain["torch.compile"]
    plain |= {name: (prepare, function) for name, function in (rivals or {}).items()}
    return Work(
        op=op,
        mode=mode,
        shape=shape,
        k=k,
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        bytes=read + written,
        providers=(
            *(
                Provider(name, partial(ready, function, inputs, mode, leaves, measured), theirs)
                for name, (ready, function) in plain.items()
            ),
            *(
                Provider(
                    f"iwae_fast {name}",
                    partial(prepare, partial(ours, backend=name), inputs, mode, leaves, entries),
                    exact,
                    role="ours",
                    package="iwae_fast",
                )
                for name in backends(device)
            ),
        ),
    )


def backends(device: torch.device) -> list[str]:
    """Those with kernels that run on the device."""
    return [name for name, backend in NATIVE.items() if device.type == backend.device and backend.unavailable() is None]


def prepare(function: Op, inputs: Inputs, mode: str, leaves: Sequence[int], measure: Measurement) -> Task:
    tensors = inputs()
    run = call(function, tensors, mode, leaves)
    return Task(run, lambda: measure(run, tensors))


def prepare_compiled(function: Op, inputs: Inputs, mode: str, leaves: Sequence[int], measure: Measurement) -> Task:
    return prepare(torch.compile(function, dynamic=False), inputs, mode, leaves, measure)


def truth(ours: Op, inputs: Inputs, mode: str, leaves: Sequence[int], measure: Measurement) -> Evidence:
    """The reference's in float64."""
    tensors = [t.double() if t.is_floating_point() else t for t in inputs()]
    return measure(call(partial(ours, backend="reference"), tensors, mode, leaves), tensors)


def entries(run: Call, tensors: list[Tensor]) -> Evidence:  # noqa: ARG001 - a Measurement has these arguments
    """All that is returned; numpy has no bfloat16."""
    results = (result if result.dtype in WIDE else result.float() for result in run())
    return {f"result {index}": result if result.is_cuda else result.numpy() for index, result in enumerate(results)}


def modes(device: torch.device) -> tuple[str, ...]:
    """Of a density: on a GPU each pass has its own bandwidth."""
    return ("forward", "backward") if device.type == "cuda" else ("forward", "forward+backward")


def call(function: Op, inputs: Sequence[Tensor], mode: str, leaves: Sequence[int]) -> Call:
    ways = {"forward": forward, "backward": backward, "forward+backward": forward_backward}
    return ways[mode](function, inputs, leaves)


def forward(function: Op, inputs: Sequence[Tensor], leaves: Sequence[int]) -> Call:  # noqa: ARG001 - as the others
    def run() -> Sequence[Tensor]:
        with torch.no_grad():
            return _tuple(function(*inputs))

    return run


def forward_backward(function: Op, inputs: Sequence[Tensor], leaves: Sequence[int]) -> Call:
    """The results under incoming gradients of one, and the gradients of the leaves."""
    own, wanted = _with_leaves(inputs, leaves)
    incoming: list[Tensor] = []

    def run() -> Sequence[Tensor]:
        results = _tuple(function(*own))
        if not incoming:
            incoming.extend(torch.ones_like(r) for r in results)
        gradients = torch.autograd.grad(results, wanted, incoming)
        return [*(r.detach() for r in results), *gradients]

    return run


def backward(function: Op, inputs: Sequence[Tensor], leaves: Sequence[int]) -> Call:
    """The gradients of the leaves under incoming gradients of one. The forward pass is run once, at the first call."""
    own, wanted = _with_leaves(inputs, leaves)
    results: list[Tensor] = []
    incoming: list[Tensor] = []

    def run() -> Sequence[Tensor]:
        if not results:
            results.extend(_tuple(function(*own)))
            incoming.extend(torch.ones_like(r) for r in results)
        return torch.autograd.grad(results, wanted, incoming, retain_graph=True)

    return run


def _with_leaves(inputs: Sequence[Tensor], leaves: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
    """The inputs, of which some require gradients, and these."""
    own = [t.detach().requires_grad_() if index in leaves else t for index, t in enumerate(inputs)]
    return own, [own[index] for index in leaves]


def _tuple(results: Any) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)
