"""Training steps of several models side by side on one GPU."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import repeat
from typing import Any

import torch
from torch import Tensor

from .step import CapturedStep


class CapturedSteps:
    """Training steps of several models, each a CUDA graph on a stream of its own, so that they run at the same time.

        models = [iw.models.DenseVAE(784).cuda() for _ in rates]
        steps = iw.CapturedSteps(
            iw.CapturedStep(
                iw.Objective(iw.bounds.IWAE(), num_samples=50), model, iw.optim.Adam(model.parameters(), lr), seed=0
            )
            for model, lr in zip(models, rates)
        )
        for x in batches:
            losses = steps(x)      # one per model, on the device; no host-device synchronization

    The kernels of a small model leave most of a GPU idle, and those of others fill it. Models may differ in everything:
    objective, k, seed, learning rate, sizes. Each takes exactly the steps that it takes alone, bit for bit. In a call
    the graphs are replayed in turn, without waiting for each other. They start after the work of the current stream,
    such as the copy of the batch, and the current stream waits for the last one, both on the device.

    Steps without a graph are taken in the same way: on a GPU each on its own stream, on the CPU one after the other.

    Args:
        steps: the steps, whose objectives, models and optimizers must be different objects, on one device and each of
            one process.

    Raises:
        TypeError, ValueError: ``steps`` are not such steps; the message says which one and why.
    """

    def __init__(self, steps: Iterable[CapturedStep]) -> None:
        self.steps: tuple[CapturedStep, ...] = tuple(steps)
        """The steps, in their order."""
        if not self.steps:
            raise ValueError("steps must be at least one CapturedStep, got none")
        owners: dict[int, int] = {}
        for index, step in enumerate(self.steps):
            _check(step, index, self.steps[0])
            # Models that share a parameter, such as a decoder, would both update it at the same time.
            for own in (step, step.objective, step.optimizer, *step.model.parameters(), *step.model.buffers()):
                if (other := owners.setdefault(id(own), index)) != index:
                    raise ValueError(f"steps {other} and {index} must not share anything, got a common {_kind(own)}")
        self.device: torch.device = self.steps[0].device
        """The device of all models."""

    def __len__(self) -> int:
        return len(self.steps)

    def __call__(
        self, x: Tensor | Sequence[Tensor], *, context: Sequence[Any] = (), mask: Tensor | Sequence[Any] | None = None
    ) -> Tensor:
        """Take a step of every model, without a device synchronization.

        Args:
            x: observations (B, ...) for all models, or a sequence of one batch per model.
            context, mask: as for :class:`CapturedStep`; if x is a sequence, a sequence of one per model, or () and None
                if there is none for any of them.

        Returns:
            The losses before the updates, (number of models,), detached, on the device.

        Raises:
            TypeError, ValueError: an argument is invalid. Models before the one that raises have taken their step.
        """
        losses = []
        with self._side_by_side() as turns:
            for (step, stream), (own, contexts, observed) in zip(turns, self._batches(x, context, mask), strict=True):
                with torch.cuda.stream(stream):  # has no effect if there is none
                    losses.append(step(own, context=contexts, mask=observed))
        return torch.stack(losses)

    @property
    def reasons(self) -> tuple[str | None, ...]:
        """The reason of each model why its steps are not captured, or None if they are."""
        return tuple(step.reason for step in self.steps)

    def state_dict(self) -> dict[str, Any]:
        """Return the states of the steps: see :meth:`CapturedStep.state_dict`. Save those of models and optimizers
        beside it."""
        return {"steps": [step.state_dict() for step in self.steps]}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Restore a state returned by :meth:`state_dict`.

        Raises:
            TypeError, ValueError: ``state_dict`` is not such a state, or one of another number of steps.
        """
        if not isinstance(state_dict, Mapping) or state_dict.keys() != {"steps"}:
            raise TypeError("state_dict must be what state_dict() of CapturedSteps returned")
        states = state_dict["steps"]
        if len(states) != len(self):
            raise ValueError(f"state_dict must have the states of {len(self)} steps, got {len(states)}")
        for step, state in zip(self.steps, states, strict=True):
            step.load_state_dict(state)

    @contextmanager
    def _side_by_side(self) -> Iterator[Iterable[tuple[CapturedStep, torch.cuda.Stream | None]]]:
        """Yield each step with its stream. The streams start after the current one, which then waits for them."""
        streams = [step.stream for step in self.steps]
        if self.device.type != "cuda":
            yield zip(self.steps, streams, strict=True)
            return
        here = torch.cuda.current_stream(self.device)
        for stream in filter(None, streams):
            stream.wait_stream(here)
        try:
            yield zip(self.steps, streams, strict=True)
        finally:  # also after an error: the caller may free the batch, which earlier steps still read
            for stream in filter(None, streams):
                here.wait_stream(stream)

    def _batches(
        self, x: Tensor | Sequence[Tensor], context: Sequence[Any], mask: Tensor | Sequence[Any] | None
    ) -> Iterable[tuple[Tensor, Sequence[Tensor], Tensor | None]]:
        """Return x, context and mask of every model."""
        if isinstance(x, Tensor):
            if not (mask is None or isinstance(mask, Tensor)):
                raise TypeError(f"mask must be a tensor if x is one batch for all models, got {type(mask).__name__}")
            return repeat((x, context, mask), len(self))
        given = {"x": x, "context": context or [()] * len(self), "mask": [None] * len(self) if mask is None else mask}
        for name, each in given.items():
            if isinstance(each, Tensor) or len(each) != len(self):
                got = "a tensor" if isinstance(each, Tensor) else f"{len(each)}"
                raise ValueError(f"{name} must have one entry for each of {len(self)} models, got {got}")
        return zip(*given.values(), strict=True)


def _check(step: Any, index: int, first: CapturedStep) -> None:
    if not isinstance(step, CapturedStep):
        raise TypeError(f"steps must be iwae_fast.CapturedStep, got {type(step).__name__} at index {index}")
    if step.device != first.device:
        raise ValueError(f"steps must be on one device, got {first.device} and {step.device}")
    if step.meshed:
        raise ValueError(f"steps must be those of one process, got one with a mesh at index {index}")


def _kind(thing: object) -> str:
    return "parameter or buffer" if isinstance(thing, Tensor) else type(thing).__name__
