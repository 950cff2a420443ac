"""``python -m benchmarks.training``: some seconds of training as in a run, with newly drawn pixels, shuffled epochs,
metrics and checkpoints, for an estimate of the time of the whole schedule of Burda, Grosse & Salakhutdinov (2016); and
of many such runs side by side.

It uses MNIST if its files are present ($IWAE_FAST_DATA), otherwise as many random images, for which a step takes
equally long. Rows are appended to the results of ``python -m benchmarks``.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from . import rows
from .cuda import one_line
from .images import mnist
from .many_models import IN_A_ROW, MODELS, SIDE_BY_SIDE
from .ops import backends
from .table import median
from .work import Provider, Task, Work

OP = "schedule"
MANY = f"schedule of {MODELS} models"
SHAPE = "k=50 B=20 784-200-200-50"
WARMUP = 0.25
"""The fraction of the time for warm-up, whose steps do not count: kernels are compiled, and steps captured."""
PARTS = 10
"""The number of parts of the remaining time; each gives the seconds per step of one round of the results."""


def dataset(folder: Path, images: int = 60_000) -> str:
    """Return the name of MNIST if it is present, otherwise of a new file with random images."""
    if mnist() is not None:
        return "mnist"
    path = folder / "random-images.npz"
    generator = np.random.default_rng(0)
    train, test = (generator.integers(0, 256, (size, 28, 28), dtype=np.uint8) for size in (images, images // 6))
    np.savez(path, train=train, test=test)
    return str(path)


class Watch:
    """A callback after each step that records time and step, and returns True when it is time to stop."""

    def __init__(self, seconds: float, step: Callable[[], int]) -> None:
        self.step = step
        self.started = time.perf_counter()
        self.marks = [self.started + seconds * (WARMUP + (1 - WARMUP) * part / PARTS) for part in range(PARTS + 1)]
        self.seen: list[tuple[float, int]] = []

    def __call__(self) -> bool:
        now = time.perf_counter()
        if now >= self.marks[len(self.seen)]:
            if torch.cuda.is_available():
                torch.cuda.synchronize()  # only ten times in all, so that launched steps are complete
            self.seen.append((time.perf_counter(), self.step()))
        return len(self.seen) == len(self.marks)

    def seconds_a_step(self) -> list[float]:
        """Return the seconds per step of each part."""
        return [(b[0] - a[0]) / (b[1] - a[1]) for a, b in zip(self.seen, self.seen[1:], strict=False) if b[1] > a[1]]


def measure(backend: str, device: str, seconds: float, **settings: Any) -> tuple[list[float], str]:
    """Return the seconds per step of a run, one entry per part, and a short description."""
    from iwae_fast.experiments.config import TrainConfig
    from iwae_fast.experiments.train.reporter import Reporter
    from iwae_fast.experiments.train.runs import create_run
    from iwae_fast.experiments.train.training import Trainer

    with tempfile.TemporaryDirectory() as folder:
        config = TrainConfig.preset(
            dataset(Path(folder)), protocol="paper", k=50, device=device, backend=backend, **settings
        )
        trainer = Trainer(config, create_run(Path(folder) / "run", config), config.load_data())
        watch = Watch(seconds, lambda: trainer.step)
        trainer.fit(Reporter(), watch)
        how = trainer.steps.how or "one by one"
        bounds = trainer.run.metrics.read_text().splitlines()[1:]
        told = f"{Path(config.dataset).stem}, {trainer.step} steps, {how}"
        if bounds:
            told += f", bound of the last whole epoch {float(bounds[-1].split(',')[2]):.1f} nats"
    return watch.seconds_a_step(), told


def measure_side_by_side(backend: str, device: str, seconds: float, models: int, **settings: Any) -> list[float]:
    """Return the seconds in which each of several runs takes a step, one entry per part of the time.

    They differ in their seeds, and take turns as those of ``iwae-fast sweep --side-by-side`` do. The time begins when
    all of them are captured, or one by one.
    """
    from iwae_fast.experiments.config import TrainConfig
    from iwae_fast.experiments.train.reporter import Reporter
    from iwae_fast.experiments.train.runs import create_run
    from iwae_fast.experiments.train.shared import SharedData
    from iwae_fast.experiments.train.training import Trainer
    from iwae_fast.experiments.train.turns import Turns, on_own_stream

    with tempfile.TemporaryDirectory() as name:
        folder, shared, trainers = Path(name), SharedData(), list[Trainer]()
        chosen = {"protocol": "paper", "k": 50, "device": device, "backend": backend, **settings}
        first = TrainConfig.preset(dataset(folder), **chosen)

        def run(seed: int) -> Turns[bool]:
            config = replace(first, seed=seed)
            data = shared.load(config)
            trainers.append(Trainer(config, create_run(folder / f"run{seed}", config), data, shared=shared))
            return (yield from trainers[-1].turns(Reporter()))

        turns = [on_own_stream(run(seed), torch.device(device)) for seed in range(models)]
        watch: Watch | None = None
        while watch is None or not watch():
            for each in turns:
                next(each)
            if watch is None and all(trainer.steps.how is not None for trainer in trainers):
                watch = Watch(seconds, lambda: sum(trainer.step for trainer in trainers))
        return [models * each for each in watch.seconds_a_step()]


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--device", default="cuda", choices=["cpu", "cuda"])
    parser.add_argument("--seconds", type=float, default=60.0, help="total time, divided among the backends")
    parser.add_argument("--models", type=int, default=1, help="more than 1: measure as many runs side by side too")
    parser.add_argument("--output", type=Path, required=True, help="a .csv file; its existing rows are kept")
    chosen = parser.parse_args(arguments)
    device, many = torch.device(chosen.device), chosen.models
    names = backends(device)
    seconds = chosen.seconds / len(names) / (1 if many == 1 else 2)
    alone: dict[Provider, list[float]] = {}
    together: dict[Provider, list[float]] = {}
    notes: dict[Provider, str] = {}
    status = 0
    for name in names:
        try:
            found, told = measure(name, chosen.device, seconds)
            beside = [] if many == 1 else measure_side_by_side(name, chosen.device, seconds, many)
        except Exception as error:
            print(f"error: training with {name}: {one_line(error)}", file=sys.stderr)
            status = 1
            continue
        if not found or (many > 1 and not beside):
            print(f"error: training with {name}: {seconds:g} s were too short", file=sys.stderr)
            status = 1
            continue
        alone[own := provider(f"iwae_fast {name}")] = found
        notes[own] = told
        if beside:
            together[provider(f"iwae_fast {name} {IN_A_ROW}")] = [many * each for each in found]
            together[provider(f"iwae_fast {name} {SIDE_BY_SIDE}")] = beside
    made = rows.make(Work(OP, "training", SHAPE, tuple(alone), k=50, device=device, whole=True), alone, notes)
    if together:
        work = Work(f"{OP} of {many} models", "training", SHAPE, tuple(together), k=50, device=device, whole=True)
        made += rows.make(work, together)
    rows.write([*(rows.read(chosen.output) if chosen.output.exists() else []), *made], chosen.output)
    for row in made:
        print(f"{row.provider}: {median(row)} per step; {row.note}")
    return status


def provider(name: str) -> Provider:
    return Provider(name, lambda: Task(lambda: None, dict), None, "ours", "iwae_fast")


if __name__ == "__main__":
    sys.exit(main())
