"""The steps of a run as functions of tensors on the device, so that CUDA graphs can capture and replay them."""

from __future__ import annotations

from contextlib import nullcontext
from functools import partial
from typing import cast

import torch
from torch import Tensor
from torch.optim import Optimizer

from ...capture import (
    CompiledNetworks,
    CudaGraphs,
    Program,
    Recorder,
    launched_by_a_graph,
    obstacle,
    unavailable,
)
from ...data import ImageData
from ...models import LatentVariableModel
from ...objectives import Objective
from ...objectives.ranks import part
from ...objectives.record import StepRecord
from ...ops.samples import seed_tensor
from ...seeds import Purpose, derive_seed, first_seed
from ..config import TrainConfig
from ..processes import ALONE, Processes
from .exchange import Exchange, GroupExchange
from .metrics import RunningMeans
from .pixels import batches_as_pixels
from .source import Source

MOST_STEPS = 32
"""The most steps in one graph. A graph's launch takes some microseconds, and a run can stop, report and save only
between graphs: with this many steps the launch is a small part of a step, and a graph takes only milliseconds."""

MOST_ROWS = 4096
"""The most observations in the steps of one graph, whose pixels are drawn together: larger steps are not bound by
launches."""


class Steps:
    """The training steps of a run: batch, pixels, noise, bound, gradient, update and running means.

    All that changes from step to step is read from tensors: the position (which determines batch, pixels and seeds),
    and the order and the learning rates of the epoch. A graph of several steps therefore gives the same results as the
    steps taken one by one, and either can continue where the other stopped.
    """

    def __init__(
        self,
        config: TrainConfig,
        model: LatentVariableModel,
        optimizer: Optimizer,
        images: Source,
        data: ImageData,
        recorder: Recorder | None = None,
        processes: Processes = ALONE,
    ) -> None:
        device = images.device
        self.ranks = processes.ranks
        self.exchange = Exchange()
        if processes.size > 1:
            self.exchange = GroupExchange(processes, model.parameters(), device)
        self.model, self.optimizer, self.images, self.data = model, optimizer, images, data
        self.objective = config.objective()
        self._networks = CompiledNetworks(model) if config.compile else nullcontext()
        self._compiled = ", with networks by torch.compile" if config.compile else ""
        self.batch_size = config.batch_size
        self.whole, self.rest = divmod(len(images), config.batch_size)
        self.in_epoch = self.whole + bool(self.rest)
        """Number of steps per epoch; the last one may have a smaller batch."""
        self.means = RunningMeans(device)
        self.order = torch.arange(len(images), device=device)
        """Order of the observations in the epoch."""
        self._position = torch.zeros((), dtype=torch.int64, device=device)
        # Four columns align every rate to 16 bytes, as Triton prefers.
        self._rates = torch.zeros(self.in_epoch, 4, device=device)
        self._pixels = seed_tensor(derive_seed(config.seed, Purpose.PIXELS), device)
        self._latents = first_seed(config.seed, Purpose.LATENTS)
        # Two columns align every seed to 16 bytes, as the kernels that read seeds prefer.
        self._ahead = torch.arange(MOST_STEPS, device=device)[:, None].repeat(1, 2)
        self._step_of_schedule = 0
        self._programs: dict[tuple[int, int], Program] = {}
        self.reason = _reason(config, self.objective, model, optimizer, device, recorder) or images.obstacle
        if self.reason is None and processes.size > 1:
            self.reason = f"{processes.size} processes exchange gradients, which a graph cannot repeat"
        """The reason why steps are taken one by one; None if they are captured, or will be."""
        self._recorder = None if self.reason is not None else recorder or CudaGraphs(device)
        self.at_once = max(1, min(MOST_STEPS, MOST_ROWS // config.batch_size, self.whole))
        """Number of steps in the largest graph."""

    @property
    def how(self) -> str | None:
        """A phrase on how steps are taken, for output; None until it is decided."""
        if self.reason is not None:
            return f"one by one{self._compiled}: {self.reason}"
        if any(program.recorded for program in self._programs.values()):
            return f"captured as CUDA graphs of up to {self.at_once}{self._compiled}"
        return None

    def seek(self, step: int, order: Tensor, rates: Tensor) -> None:
        """Continue from ``step``, in an epoch with this order of observations and these learning rates of its steps."""
        self._position.fill_(step)
        self.order.copy_(order)
        self._rates.copy_(rates[:, None])

    def take(self, step: int) -> int:
        """Take the next step after ``step`` steps, or the next graph of steps in the epoch; return the number taken."""
        left = self.whole - step % self.in_epoch
        size = self.batch_size if left else self.rest
        count = self.at_once if self.reason is None and left >= self.at_once else 1
        self._step_of_schedule = step
        key = count, size
        if key not in self._programs:
            self._programs[key] = Program(partial(self._run, *key), self._recorder)
        program = self._programs[key]
        record = program()
        if program.recorded:
            self.objective.record = record._replace(shares_buffers=True)
        if program.reason is not None:
            self.reason, self._recorder = program.reason, None
            self._programs.clear()
        self.means.count += count * size
        return count

    def _run(self, count: int, size: int) -> StepRecord:
        """Take ``count`` steps with batches of ``size``; return the diagnostics of the last one."""
        steps = self._ahead[:count] + self._position
        seeds = steps + self._latents
        rates = self._rates.index_select(0, steps[:, 0] % self.in_epoch)
        records: list[StepRecord] = []
        with launched_by_a_graph(), self._networks:
            for ahead, x in enumerate(self._batches(steps[:, 0], size)):
                self.exchange.clear_gradients(self.optimizer)
                loss = self.objective(
                    self.model,
                    x,
                    mask=self.data.mask(x),
                    seed=seeds[ahead, 0],
                    observation_offset=self._own(size)[0],
                    step=self._step_of_schedule + ahead,
                    ranks=self.ranks,
                )
                loss.backward()
                records.append(cast(StepRecord, self.objective.record))
                self.exchange.average(records[-1])
                self.optimizer.param_groups[0]["lr"] = rates[ahead, 0]
                self.optimizer.step()
        self.means.add(self.exchange.sums(records))
        self._position += count
        return records[-1]

    def _own(self, size: int) -> tuple[int, int]:
        """Return the first position and the end of this process's part of a batch."""
        return part(size, self.ranks.data_rank, self.ranks.num_data_ranks)

    def _batches(self, steps: Tensor, size: int) -> Tensor:
        """Return this process's part of the batches of these steps, (S, b, D)."""
        first, end = self._own(size)
        if size == self.batch_size:
            batches = self.order[: self.whole * size].view(self.whole, size)
            rows = batches.index_select(0, steps % self.in_epoch)[:, first:end].flatten()
        else:
            rows = self.order[self.whole * self.batch_size :][first:end]
        images = self.images.take(rows).view(len(steps), end - first, self.images.width)
        if not self.data.grey_levels:
            return images
        return batches_as_pixels(images, self._pixels, steps, first, self.data.missing)


def _reason(
    config: TrainConfig,
    objective: Objective,
    model: LatentVariableModel,
    optimizer: Optimizer,
    device: torch.device,
    recorder: Recorder | None,
) -> str | None:
    """Return why steps cannot or must not be captured, as far as known without taking one; None if they may be."""
    if recorder is None and (reason := unavailable(device)) is not None:
        return reason
    return obstacle(objective, model, optimizer) if config.capture else "capture is switched off"
