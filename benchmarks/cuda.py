"""Measurements on a GPU, where the providers alternate in one process.

The kernels of a call are captured in a CUDA graph, several calls if they are short, and events around several replays
measure the device time, without Python. Small workloads are also timed by wall clock, including Python. *Whole* ones
are timed by events around many calls, with the gaps between their kernels.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.utils._pytree import tree_leaves

from iwae_fast.capture import CudaGraphs

from . import rows
from .precision import products_of
from .rows import Row
from .work import Provider, Task, Work, WrongResultError, refuse_if_wrong

Clock = Callable[[], float]
"""A function that does the work and returns the seconds per call."""

WARMUP_ROUNDS = 5

SMALL = 2**24
"""The size in bytes below which the time spent in Python matters."""

SECONDS_A_WORK = 1.5
"""The time after which no further round of a workload starts, if it has had enough rounds."""

FEWEST_ROUNDS = 3
"""The minimum number of rounds. Whole workloads, which may take seconds per call, have a minimum of 1."""

BURST_SECONDS = 0.02
"""The time of a burst of a whole workload (at least one call) between synchronizations: a training loop does not
synchronize after every step."""

GRAPH_SECONDS = 200e-6
"""The time that a graph takes if it has as many calls as it takes for that, at most ``MOST_CALLS``."""

MOST_CALLS = 20

REPLAYS = 3
"""The number of replays of a graph that are timed together."""


def measure(work: Work, rounds: int, report: Callable[[str], None] = print) -> list[Row]:
    """Check and time all providers in turn, at most ``rounds`` times. Providers that fail are reported and left out.

    Raises WrongResultError, with the rows of the other providers, if the results of one are wrong.
    """
    wrong: list[str] = []
    failed: set[Provider] = set()

    def each(question: Callable[[Provider], Any], asked: Sequence[Provider] = work.providers) -> dict[Provider, Any]:
        """Return the answers of those of the asked providers that have not failed so far."""
        answers = {}
        for provider in (provider for provider in asked if provider not in failed):
            try:
                answers[provider] = question(provider)
            except WrongResultError as error:
                wrong.append(str(error))
                failed.add(provider)
            except Exception as error:  # a rival, or its compiler, may raise anything
                report(f"{provider.name} is left out of {work}: {one_line(error)}")
                failed.add(provider)
        return answers

    def ready(provider: Provider) -> Task:
        task = provider.prepare()
        refuse_if_wrong(work, provider, task.evidence())
        return task

    with on_its_stream(work), products_of(work.dtype):
        tasks = each(ready)
        notes = {provider: task.note for provider, task in tasks.items()}
        found: list[Row] = []

        def time_by(
            clock: Callable[[Callable[[], Any]], Clock], metric: str, asked: Sequence[Provider] = work.providers
        ) -> None:
            clocks = each(lambda provider: clock(tasks[provider].run), asked)
            # Whole workloads need no warm-up: computing their evidence and calibrating the burst have already run them.
            warmup, fewest = (0, 1) if work.whole else (WARMUP_ROUNDS, FEWEST_ROUNDS)
            found.extend(rows.make(work, alternating(clocks, rounds, warmup, fewest), notes, metric))

        if work.metric == "peak bytes":
            peaks = each(lambda provider: [float(peak_bytes(tasks[provider].run))])
            found.extend(rows.make(work, peaks, notes))
        elif work.whole:
            time_by(BurstClock, "seconds")
        else:
            time_by(DeviceClock, "seconds")
            if work.bytes < SMALL:
                time_by(host_clock, "seconds with Python", [p for p in work.providers if p.role != "bound"])
    torch._dynamo.reset()
    if wrong:
        raise WrongResultError("; ".join(wrong), found)
    return found


def one_line(error: Exception) -> str:
    first, *_ = str(error).splitlines() or [""]
    return f"{type(error).__name__}: {first}"


def on_its_stream(work: Work) -> torch.cuda.StreamContext:
    """Return the stream of a workload: captured ones need a side stream from the start, since a backward pass runs on
    the stream of its forward pass."""
    return torch.cuda.stream(None if work.whole or work.device.type != "cuda" else torch.cuda.Stream())


def alternating(clocks: dict[Provider, Clock], rounds: int, warmup: int, fewest: int) -> dict[Provider, list[float]]:
    seconds: dict[Provider, list[float]] = {provider: [] for provider in clocks}
    started = time.monotonic()
    for index in range(rounds + warmup):
        if index >= warmup + fewest and time.monotonic() - started > SECONDS_A_WORK:
            break
        for provider, clock in clocks.items():
            elapsed = clock()
            if index >= warmup:
                seconds[provider].append(elapsed)
    return seconds


def peak_bytes(run: Callable[[], Any]) -> int:
    """Measure the peak device memory of a call, excluding memory allocated before it and its results."""
    run()
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    results = run()
    torch.cuda.synchronize()
    returned = sum(t.nbytes for t in tree_leaves(results) if isinstance(t, torch.Tensor))
    return torch.cuda.max_memory_allocated() - before - returned


def host_clock(run: Callable[[], Any]) -> Clock:
    """Return a clock that measures the wall time of a call until its kernels are done."""

    def clock() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    return clock


class EventClock:
    """The seconds of device time that pass between two events around several runs of a function."""

    def __init__(self) -> None:
        self.start, self.stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def seconds(self, run: Callable[[], Any], times: int) -> float:
        """Return the seconds of one of several runs. The first is followed by the others without a gap: a run that does
        not count goes ahead, during which the host can launch them."""
        if times > 1:
            run()
        self.start.record()
        for _ in range(times):
            run()
        self.stop.record()
        self.stop.synchronize()
        return self.start.elapsed_time(self.stop) / 1e3 / times


class BurstClock(EventClock):
    """The time per call of a burst of consecutive calls, with the gaps between their kernels."""

    def __init__(self, run: Callable[[], Any]) -> None:
        super().__init__()
        self.run = run
        self.calls = max(1, int(BURST_SECONDS / self.seconds(run, 1)))

    def __call__(self) -> float:
        return self.seconds(self.run, self.calls)


class DeviceClock(EventClock):
    """The device time of a call's kernels, replayed from a CUDA graph, with several calls if they are short."""

    def __init__(self, run: Callable[[], Any]) -> None:
        super().__init__()
        for _ in range(3):
            run()
        self.run = run
        self.record(1)
        self()
        calls = min(MOST_CALLS, math.ceil(GRAPH_SECONDS / self()))
        if calls > 1:
            self.record(calls)

    def record(self, calls: int) -> None:
        def several() -> Any:
            for _ in range(calls - 1):
                self.run()
            return self.run()

        here = torch.cuda.current_stream()
        self.calls = calls
        # In a pool of its own. CudaGraphs cleans up after a capture that fails.
        self.recording = CudaGraphs(here.device, here).record(several)

    def __call__(self) -> float:
        return self.seconds(self.recording.replay, REPLAYS) / self.calls
