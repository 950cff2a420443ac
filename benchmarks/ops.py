"""Workloads from ops: their providers, the reference results, and the bytes that they must move."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor

from iwae_fast.backends import NATIVE
from iwae_fast.checks import WIDE

from . import agreement, copy
from .work import BASELINE, COMPILED, Check, Evidence, Provider, Task, Work

Op = Callable[..., Any]
"""A picklable function from the inputs to a tensor or a tuple of tensors."""

Inputs = Callable[[], list[Tensor]]
"""A picklable function that creates the inputs, the same at every call."""

Call = Callable[[], Sequence[Tensor]]
"""A call of the op on its inputs, which returns the results followed by the gradients."""

Terms = Callable[..., list[Tensor]]
"""A picklable function of the expected results and gradients, and the inputs: see ``conditions.py``."""

Measurement = Callable[[Call, list[Tensor]], Evidence]
"""A picklable function from a call and its inputs to the evidence."""


def op_work(
    op: str,
    mode: str,
    shape: str,
    k: int,
    ours: Op,
    eager: Op,
    inputs: Inputs,
    leaves: Sequence[int],
    terms: Terms,
    own_noise: Measurement | None = None,
    at_once: bool = False,
    rivals: Mapping[str, Op] | None = None,
) -> Work:
    """Return the workload of an op in one mode and shape.

    Args:
        op, mode, shape, k: the columns that identify the workload.
        ours: our op, which also takes ``backend=``.
        eager: the usual torch code. It is timed directly and through torch.compile.
        inputs: creates the inputs.
        leaves: the indices of the inputs that get a gradient.
        terms: computes the condition of each result and gradient, by which results are checked.
        own_noise: if given, rivals draw their own noise and are checked by the figures that this function measures.
        at_once: True if one read of the inputs is enough for forward and backward pass.
        rivals: further rivals, by name.
    """
    tensors = inputs()
    device, dtype = tensors[0].device, tensors[0].dtype
    results = call(partial(ours, backend=backends(device)[0]), tensors, mode, leaves)()
    read = stored_bytes(tensors) * (2 if mode == "forward+backward" and not at_once else 1)
    written = stored_bytes(results)
    exact = Check(
        partial(truth_with_terms, ours, inputs, mode, leaves, terms),
        partial(agreement.differing_entries, unit=agreement.UNIT_ROUNDOFF[dtype]),
    )
    theirs = exact
    if own_noise is not None:
        theirs = Check(partial(truth, ours, inputs, mode, leaves, own_noise), agreement.differing_means)
    measured = own_noise or entries
    plain = {BASELINE: (prepare, eager), COMPILED: (prepare_compiled, eager)}
    plain |= {name: (prepare, function) for name, function in (rivals or {}).items()}
    return Work(
        op=op,
        mode=mode,
        shape=shape,
        k=k,
        dtype=str(dtype).removeprefix("torch."),
        device=device,
        read=read,
        written=written,
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
            *copy.beside(device, read + written),
        ),
    )


def stored_bytes(tensors: Sequence[Tensor]) -> int:
    """Return the size of tensors in memory, where what a tensor repeats along an axis is stored once."""
    return sum(
        t.element_size() * math.prod(length for length, stride in zip(t.shape, t.stride(), strict=True) if stride)
        for t in tensors
    )


def backends(device: torch.device) -> list[str]:
    """Return the backends with kernels that run on the device."""
    return [name for name, backend in NATIVE.items() if device.type == backend.device and backend.unavailable() is None]


def prepare(function: Op, inputs: Inputs, mode: str, leaves: Sequence[int], measure: Measurement) -> Task:
    tensors = inputs()
    run = call(function, tensors, mode, leaves)
    return Task(run, lambda: measure(run, tensors))


def prepare_compiled(function: Op, inputs: Inputs, mode: str, leaves: Sequence[int], measure: Measurement) -> Task:
    compiled = torch.compile(function, dynamic=False)
    if mode != "backward":
        return prepare(compiled, inputs, mode, leaves, measure)
    tensors = inputs()
    backward_alone = call(compiled, tensors, mode, leaves)

    def run() -> Sequence[Tensor]:
        # A compiled backward pass runs again on what its forward pass saved only if it does not overwrite that. The
        # setting holds in one thread, while the engine runs a GPU's backward pass in another unless told not to.
        with torch._functorch.config.patch(donated_buffer=False), torch.autograd.set_multithreading_enabled(False):
            return backward_alone()

    return Task(run, lambda: measure(run, tensors))


def truth(ours: Op, inputs: Inputs, mode: str, leaves: Sequence[int], measure: Measurement) -> Evidence:
    """Compute the reference result in float64."""
    tensors = [t.double() if t.is_floating_point() else t for t in inputs()]
    return measure(call(partial(ours, backend="reference"), tensors, mode, leaves), tensors)


def truth_with_terms(ours: Op, inputs: Inputs, mode: str, leaves: Sequence[int], terms: Terms) -> Evidence:
    """Compute the reference result in float64, with the condition of each entry."""
    tensors = [t.double() if t.is_floating_point() else t for t in inputs()]
    expected = call(partial(ours, backend="reference"), tensors, "forward+backward", leaves)()
    sums = [agreement.Sum(*map(_sendable, each)) for each in zip(expected, terms(expected, *tensors), strict=True)]
    results = len(sums) - len(leaves)
    part = {"forward": slice(results), "backward": slice(results, None), "forward+backward": slice(None)}
    return {f"result {index}": each for index, each in enumerate(sums[part[mode]])}


def entries(run: Call, tensors: list[Tensor]) -> Evidence:  # noqa: ARG001 - a Measurement has these arguments
    """Return all results of a call as evidence; bfloat16 is widened, since NumPy does not support it."""
    results = (result if result.dtype in WIDE else result.float() for result in run())
    return {f"result {index}": _sendable(result) for index, result in enumerate(results)}


def _sendable(result: Tensor) -> Any:
    """Return the result as evidence: on the host it becomes an array, which can be sent to another process."""
    return result if result.is_cuda else result.numpy()


def modes(device: torch.device) -> tuple[str, ...]:
    """Return the modes of a density: on a GPU, the backward pass is also measured alone."""
    return ("forward", "backward", "forward+backward") if device.type == "cuda" else ("forward", "forward+backward")


def call(function: Op, inputs: Sequence[Tensor], mode: str, leaves: Sequence[int]) -> Call:
    ways = {"forward": forward, "backward": backward, "forward+backward": forward_backward}
    return ways[mode](function, inputs, leaves)


def forward(function: Op, inputs: Sequence[Tensor], leaves: Sequence[int]) -> Call:  # noqa: ARG001 - as the others
    def run() -> Sequence[Tensor]:
        with torch.no_grad():
            return _tuple(function(*inputs))

    return run


def forward_backward(function: Op, inputs: Sequence[Tensor], leaves: Sequence[int]) -> Call:
    """Return a call that computes the results, and the gradients of the leaves for upstream gradients of 1."""
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
    """Return a call that computes the gradients of the leaves for upstream gradients of 1.

    The forward pass runs once, in the first call.
    """
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
    """Return the inputs, of which some require gradients, and the list of those."""
    own = [t.detach().requires_grad_() if index in leaves else t for index, t in enumerate(inputs)]
    return own, [own[index] for index in leaves]


def _tuple(results: Any) -> tuple[Tensor, ...]:
    return results if isinstance(results, tuple) else (results,)
