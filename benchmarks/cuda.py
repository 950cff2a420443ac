"""On a GPU: the providers alternate in one process.

The kernels of a call are captured in a CUDA graph, whose replays are timed by device events: the time of the device's
work, without Python's. Small works are timed by the clock too, with Python's part.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from . import rows
from .rows import Row
from .work import Provider, Task, Work, refuse_if_wrong

Clock = Callable[[], float]
"""Does the work once and returns the seconds that it took."""

WARMUP_ROUNDS = 5

SMALL = 2**24
"""Bytes: below these, Python's part shows."""


def measure(work: Work, rounds: int) -> list[Row]:
    """Check and time all providers in turn, ``rounds`` times, and give their memory back."""
    tasks: dict[Provider, Task] = {}
    for provider in work.providers:
        tasks[provider] = provider.prepare()
        refuse_if_wrong(work, provider, tasks[provider].evidence())
    clocks: dict[Provider, Clock] = {provider: DeviceClock(task.run) for provider, task in tasks.items()}
    found = rows.make(work, alternating(clocks, rounds))
    if work.bytes < SMALL:
        clocks = {provider: host_clock(task.run) for provider, task in tasks.items()}
        found += rows.make(work, alternating(clocks, rounds), metric="seconds with Python")
    torch._dynamo.reset()
    return found


def alternating(clocks: dict[Provider, Clock], rounds: int) -> dict[Provider, list[float]]:
    seconds: dict[Provider, list[float]] = {provider: [] for provider in clocks}
    for index in range(rounds + WARMUP_ROUNDS):
        for provider, clock in clocks.items():
            elapsed = clock()
            if index >= WARMUP_ROUNDS:
                seconds[provider].append(elapsed)
    return seconds


def host_clock(run: Callable[[], Any]) -> Clock:
    """A call's seconds by the clock, until its kernels are done."""

    def clock() -> float:
        torch.cuda.synchronize()
        start = time.perf_counter()
        run()
        torch.cuda.synchronize()
        return time.perf_counter() - start

    return clock


class DeviceClock:
    """The seconds of a call's kernels, replayed from a CUDA graph."""

    def __init__(self, run: Callable[[], Any]) -> None:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                run()
        torch.cuda.current_stream().wait_stream(side)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.results = run()  # kept, since the graph writes to their memory
        self.start, self.stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def __call__(self) -> float:
        self.start.record()
        self.graph.replay()
        self.stop.record()
        self.stop.synchronize()
        return self.start.elapsed_time(self.stop) / 1e3
