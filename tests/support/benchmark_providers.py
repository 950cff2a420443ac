"""Providers for the tests of the benchmarks, in a module that a worker process can import."""

from __future__ import annotations

import os
import time
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks import agreement
from benchmarks.work import BASELINE, Check, Evidence, Provider, Task, Work


def truth() -> Evidence:
    return {"result": agreement.Sum(np.array([1.0, 2.0]), np.array([1.0, 2.0]))}


CHECK = Check(truth, partial(agreement.differing_entries, unit=1e-3))


def right() -> Evidence:
    return {"result": np.array([1.0, 2.0])}


def factor_task(factor: float) -> Task:
    """Return a task that is correct for a factor of 1.

    It allocates and keeps 1000 bytes times the factor, and a state in the first call.
    """
    state: list[torch.Tensor] = []

    def run() -> torch.Tensor:
        if not state:
            state.append(torch.zeros(10**6))
        return torch.zeros(int(250 * factor), dtype=torch.float32)

    return Task(run, lambda: {"result": factor * np.array([1.0, 2.0])}, note=f"factor {factor}")


def not_installed() -> Task:
    import no_such_package  # noqa: F401

    raise AssertionError


def fails_when_run() -> Task:
    def run() -> None:
        raise ValueError("cannot run\nsecond line")

    return Task(run, right)


def dies() -> Task:
    os._exit(3)


def sleeps() -> Task:
    return Task(partial(time.sleep, 60.0), right)


def work(*others: Provider, metric: str = "seconds") -> Work:
    """Return a workload with a baseline, one of our providers, and others."""
    providers = (
        Provider(BASELINE, partial(factor_task, 1.0), CHECK),
        Provider("iwae_fast", partial(factor_task, 1.0), CHECK, "ours", "iwae_fast"),
        *others,
    )
    return Work("nothing", "forward", "n=1", providers, k=7, metric=metric)


class SeparateStep:
    """A stand-in for ``CapturedStep`` that runs each step without a graph."""

    reason: str | None = None

    def __init__(self, objective: Any, model: Any, optimizer: Any, seed: int) -> None:
        torch.manual_seed(seed)
        self.objective, self.model, self.optimizer = objective, model, optimizer

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        self.optimizer.zero_grad()
        loss: torch.Tensor = self.objective(self.model, x)
        loss.backward()
        self.optimizer.step()
        return loss.detach()
