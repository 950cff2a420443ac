"""What a training step costs one by one and captured: ``python -m benchmarks.captured_step``.

The papers' one-layer network, batch 20 of 784 pixels, Adam as in their protocol. "One by one" is a loop on a batch at
hand, "captured" the same by :class:`iwae_fast.CapturedStep`, and "training" what ``iwae-fast train`` repeats: order,
pixels and means included, up to 32 steps in a graph. On a CPU nothing is captured.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable

import torch

import iwae_fast as iw
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.optimizers import allocate_state
from iwae_fast.experiments.protocols import PROTOCOLS, passes
from iwae_fast.experiments.steps import Steps

BATCH, PIXELS, IMAGES = 20, 784, 60_000
STEPS = passes(8) * IMAGES // BATCH
"""Of the papers' whole schedule."""


def one_by_one(k: int, device: str) -> Callable[[], int]:
    model, objective, optimizer = _parts(k, device)
    x = torch.rand(BATCH, PIXELS, device=device).round()
    seed = torch.zeros((), dtype=torch.int64, device=device)

    def step() -> int:
        optimizer.zero_grad()
        objective(model, x, seed=seed).backward()
        optimizer.step()
        seed.add_(1)
        return 1

    return step


def captured(k: int, device: str) -> Callable[[], int]:
    model, objective, optimizer = _parts(k, device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on a CPU
        step = iw.CapturedStep(objective, model, optimizer, seed=0)
    x = torch.rand(BATCH, PIXELS, device=device).round()
    return lambda: (step(x), 1)[1]


def training(k: int, device: str, images: int = IMAGES) -> Callable[[], int]:
    model, _, optimizer = _parts(k, device)
    allocate_state(optimizer)
    config = TrainConfig.preset("mnist", protocol="paper", k=k, batch_size=BATCH, device=device)
    steps = Steps(config, model, optimizer, torch.rand(images, PIXELS, device=device), grey_levels=True)
    taken = 0

    def take() -> int:
        nonlocal taken
        count = steps.take(taken)
        taken += count
        return count

    return take


def microseconds(run: Callable[[], int], device: str, seconds: float) -> float:
    """Of one step: the median of twenty stretches, after a first one that compiles and captures."""
    stretch(run, device, seconds / 20)
    for _ in range(4):  # rehearsals and captures
        run()
    return statistics.median(stretch(run, device, seconds / 20) for _ in range(20))


def stretch(run: Callable[[], int], device: str, seconds: float) -> float:
    taken, started = 0, time.perf_counter()
    while taken == 0 or time.perf_counter() - started < seconds:
        taken += run()
    if device == "cuda":
        torch.cuda.synchronize()
    return (time.perf_counter() - started) / taken * 1e6


def _parts(k: int, device: str) -> tuple[iw.models.DenseVAE, iw.Objective, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = iw.models.DenseVAE(PIXELS).to(device)
    optimizer = PROTOCOLS["paper"].optimizer(model.parameters(), 1e-3)
    return model, iw.Objective(iw.bounds.IWAE(), num_samples=k), optimizer


WAYS: dict[str, Callable[[int, str], Callable[[], int]]] = {
    "one by one": one_by_one,
    "captured": captured,
    "training": training,
}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu", choices=["cpu", "cuda"])
    parser.add_argument("--k", type=int, nargs="+", default=[1, 5, 50])
    parser.add_argument("--seconds", type=float, default=2.0, help="For each line.")
    given = parser.parse_args(arguments)
    print(f"{'k':>4}  {'steps':<10}  {'us a step':>9}  {'3280 passes, hours':>18}")
    for k in given.k:
        for name, make in WAYS.items():
            taken = microseconds(make(k, given.device), given.device, given.seconds)
            print(f"{k:4}  {name:<10}  {taken:9.1f}  {taken * STEPS / 3.6e9:18.2f}", flush=True)


if __name__ == "__main__":
    main()
