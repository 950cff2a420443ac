"""Places of concurrent runs, which share the cores and the GPUs of this machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True)
class Slot:
    """The place of a run."""

    number: int
    """Number from 0, which no other current run has."""
    gpu: str | None
    """The GPU for ``CUDA_VISIBLE_DEVICES``; None to leave the choice to the run."""
    threads: int

    @property
    def environment(self) -> dict[str, str]:
        """Variables for the process of the run, without those that the user has set."""
        found = {} if "OMP_NUM_THREADS" in os.environ else {"OMP_NUM_THREADS": str(self.threads)}
        return found if self.gpu is None else {**found, VISIBLE: self.gpu}


class Slots:
    """The slots of ``jobs`` runs; each run takes a free one on a GPU with the fewest current runs."""

    def __init__(self, jobs: int) -> None:
        gpus = visible_gpus()
        threads = max(1, _cores() // jobs)
        shared = gpus if jobs > 1 and len(gpus) > 1 else (None,)
        self._free = [Slot(number, shared[number % len(shared)], threads) for number in range(jobs)]
        self._taken: list[Slot] = []
        self._lock = threading.Lock()

    @contextmanager
    def one(self) -> Iterator[Slot]:
        """Take a slot for the duration of the context; there must be a free one."""
        with self._lock:
            loads = [slot.gpu for slot in self._taken]
            slot = min(self._free, key=lambda free: (loads.count(free.gpu), free.number))
            self._free.remove(slot)
            self._taken.append(slot)
        try:
            yield slot
        finally:
            with self._lock:
                self._taken.remove(slot)
                self._free.append(slot)


def visible_gpus() -> tuple[str, ...]:
    """Return the GPUs that processes may use, as in ``CUDA_VISIBLE_DEVICES``."""
    count = torch.cuda.device_count()
    named = os.environ.get(VISIBLE)
    return tuple(map(str, range(count))) if named is None else tuple(name.strip() for name in named.split(","))[:count]


def _cores() -> int:
    """Return the number of cores of this process, which a queue may have limited."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
