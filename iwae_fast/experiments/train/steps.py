"""The steps of a run, as functions of what lies on the device, so that a GPU can repeat them by itself."""

from __future__ import annotations

from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...capture import CudaGraphs, Program, Rates, Recorder, obstacle, unavailable
from ...models import LatentVariableModel
from ...objectives.objective import Objective, Seen
from ...ops.samples import seed_tensor
from ...seeds import Purpose, derive_seed, first_seed
from ..config import TrainConfig
from .metrics import RunningMeans
from .pixels import batches_as_pixels
from .source import Source

MOST_STEPS = 32
"""In one graph. A graph's launch takes some microseconds, and a run can stop, report and save only between graphs: so
many steps make the one a small part of a step, and keep the other to some milliseconds."""

MOST_ROWS = 4096
"""Observations of the steps of one graph, drawn all at once: beyond that a step is not bound by launches."""


class Steps:
    """Order of the epoch, pixels, noise, bound, gradient, update and means of a run's steps.

    All that changes from step to step is read from tensors: the position, from which batch, pixels and seeds follow,
    the order of the epoch and the learning rate. So a graph of some steps does what the steps do one by one, and either
    may go on where the other stopped.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: LatentVariableModel,
        optimizer: Optimizer,
        images: Source,
        grey_levels: bool,
        recorder: Recorder | None = None,
    ) -> None:
        device = images.device
        self.model, self.optimizer, self.images, self.grey_levels = model, optimizer, images, grey_levels
        self.objective = config.objective()
        self.batch_size = config.batch_size
        self.whole, self.rest = divmod(len(images), config.batch_size)
        self.in_epoch = self.whole + bool(self.rest)
        """Steps of an epoch, of which the last may have a smaller batch."""
        self.means = RunningMeans(device)
        self.order = torch.arange(len(images), device=device)
        """Of the observations in the epoch."""
        self._position = torch.zeros((), dtype=torch.int64, device=device)
        self._rates = Rates(optimizer, device)
        self._pixels = seed_tensor(derive_seed(config.seed, Purpose.PIXELS), device)
        self._latents = first_seed(config.seed, Purpose.LATENTS)
        # Two columns, so that every number lies where 16 divides its address, as kernels like the seeds of their noise.
        self._ahead = torch.arange(MOST_STEPS, device=device)[:, None].repeat(1, 2)
        self._step_of_schedule = 0
        self._programs: dict[tuple[int, int], Program] = {}
        self.reason = _reason(config, self.objective, model, optimizer, device, recorder) or images.obstacle
        """Why steps are taken one by one; None where they are captured, or will be."""
        self._recorder = None if self.reason is not None else recorder or CudaGraphs(device)
        self.at_once = max(1, min(MOST_STEPS, MOST_ROWS // config.batch_size, self.whole))
        """Steps in the largest graph."""

    @property
    def how(self) -> str | None:
        """One phrase for people, on how steps are taken; None as long as it is not decided."""
        if self.reason is not None:
            return f"one by one: {self.reason}"
        if any(program.recorded for program in self._programs.values()):
            return f"captured as CUDA graphs of up to {self.at_once}"
        return None

    def move_to(self, step: int, order: Tensor) -> None:
        """Be where so many steps were taken, in an epoch of this order."""
        self._position.fill_(step)
        self.order.copy_(order)

    def take(self, step: int) -> int:
        """Take the steps after the first ``step``: one, or those of a graph, all in one epoch. Returns how many."""
        left = self.whole - step % self.in_epoch
        size = self.batch_size if left else self.rest
        count = self.at_once if self.reason is None and left >= self.at_once else 1
        self._step_of_schedule = step
        self._rates.sync()
        key = count, size
        if key not in self._programs:
            self._programs[key] = Program(partial(self._run, *key), self._recorder)
        program = self._programs[key]
        seen = program()
        if program.recorded:
            self.objective.seen = seen._replace(passing=True)
        if program.reason is not None:
            self.reason, self._recorder = program.reason, None
            self._programs.clear()
        self.means.count += count * size
        return count

    def _run(self, count: int, size: int) -> Seen:
        """So many steps with batches of this size; what the objective saw in the last."""
        steps = self._ahead[:count] + self._position
        seeds = steps + self._latents
        seen: list[Seen] = []
        with self._rates:
            for ahead, x in enumerate(self._batches(steps[:, 0], size)):
                self.optimizer.zero_grad()
                step = self._step_of_schedule + ahead
                self.objective(self.model, x, seed=seeds[ahead, 0], step=step).backward()
                self.optimizer.step()
                seen.append(cast(Seen, self.objective.seen))
        self.means.add(seen)
        self._position += count
        return seen[-1]

    def _batches(self, steps: Tensor, size: int) -> Tensor:
        """What the model is shown in these steps, (S, B, D)."""
        if size == self.batch_size:
            batches = self.order[: self.whole * size].view(self.whole, size)
            rows = batches.index_select(0, steps % self.in_epoch).flatten()
        else:
            rows = self.order[self.whole * self.batch_size :]
        images = self.images.take(rows).view(len(steps), size, -1)
        return batches_as_pixels(images, self._pixels, steps) if self.grey_levels else images


def _reason(
    config: TrainConfig,
    objective: Objective,
    model: LatentVariableModel,
    optimizer: Optimizer,
    device: torch.device,
    recorder: Recorder | None,
) -> str | None:
    """Why the steps of a run cannot, or shall not, be captured, as far as that is known without taking one."""
    if recorder is None and (reason := unavailable(device)) is not None:
        return reason
    return obstacle(objective, model, optimizer) if config.capture else "capture is switched off"
