"""The exchange of a step between the processes of a run: gradients, diagnostics and the wish to stop.

The three travel in one all-reduce of a flat tensor. DistributedDataParallel would reduce the gradients alone, and the
rest would cost another message per step. It also reduces large gradients while the backward pass still runs, which does
not help the networks here: theirs fit into its first bucket or two.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

from ...objectives.record import StepRecord
from ..processes import Processes
from .metrics import Means, summed

SIGNAL_SECONDS = 5.0
"""The longest time after a signal for which a GPU may be busy with a step, before another process counts as lost."""


class Exchange:
    """The exchange of a single process: nothing is sent."""

    def __init__(self) -> None:
        self.stop: Callable[[], bool] = lambda: False
        """Function that returns whether this process asks to stop."""

    def clear_gradients(self, optimizer: Optimizer) -> None:
        """Discard the gradients of the last step."""
        optimizer.zero_grad()

    def average(self, record: StepRecord) -> None:
        """Average the gradients over the processes, and sum up the diagnostics of a step."""

    def sums(self, records: Sequence[StepRecord]) -> Tensor:
        """Return the sums of the diagnostics of some steps over the observations of all processes."""
        return summed(records)

    def stopping(self) -> bool:
        """Return whether to stop now, the same on all processes."""
        return self.stop()


class GroupExchange(Exchange):
    """The exchange of several processes, which take steps one by one.

    Args:
        processes: the processes.
        parameters: those of the model. The ones that require a gradient get it as a part of one flat tensor.
        device: their device.
    """

    def __init__(self, processes: Processes, parameters: Iterable[Parameter], device: torch.device) -> None:
        super().__init__()
        self.processes = processes
        trained = [parameter for parameter in parameters if parameter.requires_grad]
        sizes = [*(parameter.numel() for parameter in trained), len(Means._fields), 1]
        self._flat = torch.zeros(sum(sizes), device=device)
        *gradients, self._sums, self._asked = self._flat.split(sizes)
        self._averaged = self._flat[: sum(sizes[:-2])]
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.grad = gradient.view_as(parameter)
        self._late = None if device.type == "cpu" else _Late()

    def clear_gradients(self, optimizer: Optimizer) -> None:  # noqa: ARG002
        self._averaged.zero_()  # backward adds to the parts of the flat tensor, so that no gradient is copied

    def average(self, record: StepRecord) -> None:
        # The processes that divide the samples of the same observations have the same diagnostics.
        self._sums.copy_(summed([record]) / self.processes.ranks.num_sample_ranks)
        self._asked.fill_(float(self.stop()))
        self.processes.sum(self._flat)
        self._averaged /= self.processes.size
        if self._late is not None:
            self._late.send(self._asked)

    def sums(self, records: Sequence[StepRecord]) -> Tensor:  # noqa: ARG002
        return self._sums.double()

    def stopping(self) -> bool:
        return bool(self._asked) if self._late is None else self._late.read(self.stop)


class _Late:
    """Reading of a number from a GPU one step late, so that the host does not wait for the step it has launched."""

    def __init__(self) -> None:
        self.copies = [torch.zeros(1, pin_memory=True) for _ in range(2)]
        self.events = [torch.cuda.Event() for _ in range(2)]
        self.turn = 0

    def send(self, number: Tensor) -> None:
        self.copies[self.turn].copy_(number, non_blocking=True)
        self.events[self.turn].record()
        self.turn = 1 - self.turn

    def read(self, asked: Callable[[], bool]) -> bool:
        """Return whether the number before the last one is not 0; raises RuntimeError if it does not come."""
        event, since = self.events[self.turn], None
        # Python handles signals between two queries, but not inside event.synchronize(), which would wait forever for a
        # step that another process does not take part in any more.
        while not event.query():
            if asked():
                since = since or time.monotonic()
                if time.monotonic() - since > SIGNAL_SECONDS:
                    raise RuntimeError("connection lost: another process does not take part in this step")
            time.sleep(2e-5)
        return bool(self.copies[self.turn])
