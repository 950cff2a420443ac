"""``python -m benchmarks.objectives``: the effect of bounds, estimators and budgets, as files and as one picture.

On a DenseVAE trained for a few epochs on the digits, it measures the value of each bound and the gradient's
signal-to-noise ratio of each estimator against k. On the papers' network it measures the time of a training step with
each budget, alternating in one run. The NLL of each budget comes from ``python -m benchmarks.budgets``.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import Tensor

import iwae_fast as iw
from iwae_fast import data
from iwae_fast.bounds import CIWAE, ELBO, IWAE, JVI, SUMO, TVO, VRIWAE, Bound

from .budgets import read

RESULTS = Path("benchmarks/results")
COUNTS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BOUNDS: tuple[Bound, ...] = (ELBO(), IWAE(), VRIWAE(0.5), CIWAE(0.5), TVO(), JVI(1), SUMO())
ESTIMATORS = ("reparameterized", "stl", "dreg", "rws", "rws-dreg", "vimco")
BUDGETS = (1, 2, 4, 8, None)
COLORS = ("#2563a8", "#d9722b", "#3b8f5a", "#a8325f", "#7a5cb8", "#8a6d3b", "#333333")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.objectives", description=__doc__)
    parser.add_argument("--draws", type=int, default=400, help="draws per signal-to-noise ratio")
    parser.add_argument("--rounds", type=int, default=60, help="rounds per timed step")
    parser.add_argument("--only", choices=["bounds", "signal", "times"], help="run only one kind of measurement")
    parser.add_argument("--only-draw", action="store_true", help="only redraw the picture from the files")
    arguments = parser.parse_args()
    if not arguments.only_draw:
        model, x = trained()
        if arguments.only in (None, "bounds"):
            write("bounds-by-k", values(model, x))
        if arguments.only in (None, "signal"):
            write("signal-to-noise-by-k", signal_to_noise(model, x, arguments.draws))
        if arguments.only in (None, "times"):
            write("bound-times", bound_times(arguments.rounds))
            write("step-times", step_times(arguments.rounds))
    draw(Path("docs/images/objectives.png"))


def trained(epochs: int = 15) -> tuple[iw.models.DenseVAE, Tensor]:
    """Return a partially trained model and 20 test images: at the end of training the gradient has little signal."""
    torch.manual_seed(0)
    images, pixels = data.load("digits"), torch.Generator().manual_seed(0)
    model = iw.models.DenseVAE(64, (20,), (200, 200), data_mean=images.train.mean(0))
    objective = iw.Objective(IWAE(), num_samples=5)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(images.train)).split(50):
            optimizer.zero_grad()
            objective(model, data.binarize(images.train[batch], pixels)).backward()
            optimizer.step()
    return model, data.binarize(images.test[:20], pixels)


def values(model: iw.models.DenseVAE, x: Tensor, repeats: int = 50) -> list[dict[str, Any]]:
    """Compute the mean of each bound over images and repeated draws."""
    rows = []
    with torch.no_grad():
        for k in COUNTS:
            for bound in BOUNDS:
                if isinstance(bound, JVI) and k <= bound.order:
                    continue
                objective = iw.Objective(bound, num_samples=k)
                draws = 40 * repeats if isinstance(bound, SUMO) else repeats  # one T for all images of a draw
                found = [-objective(model, x, seed=seed).item() for seed in range(draws)]
                error = statistics.stdev(found) / draws**0.5
                rows.append({"bound": repr(bound), "k": k, "value": statistics.mean(found), "std_error": error})
    return rows


def signal_to_noise(model: iw.models.DenseVAE, x: Tensor, draws: int) -> list[dict[str, Any]]:
    """Compute the overall ratio of the encoder's gradient, and of the decoder's, which all estimators share."""
    rows = []
    for k in COUNTS:
        for estimator in ESTIMATORS:
            if estimator == "vimco" and k == 1:
                continue
            found = iw.gradient_snr(iw.Objective(IWAE(), estimator, num_samples=k), model, x[:1], draws, seed=0)
            rows += [
                {"estimator": estimator, "group": group, "k": k, "snr": ratio.overall} for group, ratio in found.items()
            ]
            print(estimator, k, {group: round(ratio.overall, 3) for group, ratio in found.items()}, flush=True)
    return rows


def bound_times(rounds: int, k: int = 4096, batch: int = 20) -> list[dict[str, Any]]:
    """Time value and gradient of each bound on log-weights (k, batch)."""
    log_weights = (3.0 * torch.randn(k, batch)).requires_grad_()

    def gradient(bound: Bound) -> Callable[[], Any]:
        return lambda: torch.autograd.grad(bound(log_weights).sum(), log_weights)

    def coefficients(bound: Bound) -> Callable[[], Any]:
        return lambda: bound.coefficients(log_weights)

    found = alternating(
        {(repr(b), mode): make(b) for b in (IWAE(), ELBO(), VRIWAE(0.5), TVO(), JVI(1)) for mode, make in
         (("value+gradient", gradient), ("coefficients", coefficients))}, rounds
    )  # fmt: skip
    rows = []
    for (bound, mode), times in found.items():
        ratio = statistics.median(times) / statistics.median(found["IWAE()", mode])
        rows.append({"bound": bound, "mode": mode, "k": k, "batch": batch, "times_iwae": ratio, **quantiles(times)})
    return rows


def step_times(rounds: int) -> list[dict[str, Any]]:
    """Time forward, backward and Adam on the papers' one-layer network, with batches of 20 random binary images."""
    x = (torch.rand(20, 784) < 0.2).float()
    rows = []
    for k in (50, 500):
        for estimator in ("reparameterized", "dreg"):
            steps = {}
            choices: list[dict[str, Any]] = [*({"budget": budget} for budget in BUDGETS), {"chunk_size": 25}]
            for options in choices:
                model = iw.models.DenseVAE(784)
                optimizer = torch.optim.Adam(model.parameters(), lr=1e-4, fused=True)
                objective = iw.Objective(IWAE(), estimator, num_samples=k, **options)
                steps[str(options)] = step(objective, model, optimizer, x)
            found = alternating(steps, rounds if k == 50 else max(rounds // 4, 5))
            everything = statistics.median(found[str({"budget": None})])
            for options_text, times in found.items():
                part = statistics.median(times) / everything
                rows.append(
                    {
                        "k": k,
                        "estimator": estimator,
                        "options": options_text,
                        "of_all_samples": part,
                        **quantiles(times),
                    }
                )
    return rows


def step(
    objective: iw.Objective, model: iw.models.DenseVAE, optimizer: torch.optim.Optimizer, x: Tensor
) -> Callable[[], None]:
    def take() -> None:
        optimizer.zero_grad()
        objective(model, x).backward()
        optimizer.step()

    return take


def alternating(works: dict[Any, Callable[[], Any]], rounds: int) -> dict[Any, list[float]]:
    """Measure the seconds of each workload, one after the other in every round."""
    times: dict[Any, list[float]] = {name: [] for name in works}
    for index in range(rounds + 3):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            if index >= 3:  # the first are warm-up
                times[name].append(time.perf_counter() - started)
    return times


def quantiles(times: list[float]) -> dict[str, Any]:
    low, median, high = np.quantile(times, (0.1, 0.5, 0.9))
    return {
        "median_ms": round(1e3 * median, 4),
        "q10_ms": round(1e3 * low, 4),
        "q90_ms": round(1e3 * high, 4),
        "rounds": len(times),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def write(name: str, rows: list[dict[str, Any]]) -> None:
    with (RESULTS / f"{name}.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw(path: Path) -> None:
    figure = Figure(figsize=(15.0, 3.8), layout="constrained")
    by_value, by_signal, by_time = figure.subplots(1, 3)
    rows = read(RESULTS / "bounds-by-k.csv")
    for color, name in zip(COLORS, unique(row["bound"] for row in rows), strict=False):
        line = [(int(row["k"]), float(row["value"])) for row in rows if row["bound"] == name]
        by_value.plot(*zip(*line, strict=True), color=color, label=name, linewidth=1.6, marker=".")
    finish(by_value, "Bounds", "samples k", "nats per image")

    rows = [row for row in read(RESULTS / "signal-to-noise-by-k.csv") if row["group"] == "encoder"]
    for color, name in zip(COLORS, unique(row["estimator"] for row in rows), strict=False):
        line = [
            (int(row["k"]), float(row["snr"])) for row in rows if row["estimator"] == name and float(row["snr"]) > 0
        ]
        by_signal.plot(*zip(*line, strict=True), color=color, label=name, linewidth=1.6, marker=".")
    by_signal.set_yscale("log")
    finish(by_signal, "Signal to noise of the encoder's gradient", "samples k", "ratio")

    nlls: dict[str, list[float]] = {}
    for row in read(RESULTS / "budgets-mnist-k50.csv"):
        nlls.setdefault(row["budget"], []).append(float(row["nll"]))
    milliseconds = {
        row["options"]: float(row["median_ms"])
        for row in read(RESULTS / "step-times.csv")
        if row["k"] == "50" and row["estimator"] == "reparameterized"
    }
    for budget, found in nlls.items():
        cost = milliseconds[str({"budget": None if budget == "all" else int(budget)})]
        by_time.errorbar(cost, statistics.mean(found), np.ptp(found) / 2, fmt="o", color=COLORS[0], capsize=3)
        by_time.annotate(budget, (cost, statistics.mean(found)), xytext=(6, 4), textcoords="offset points")
    finish(by_time, "MNIST, k = 50, two epochs: budget", "ms per training step", "test NLL, nats", legend=False)
    by_time.set_xscale("linear")
    FigureCanvasAgg(figure)
    figure.savefig(path, dpi=130, facecolor="white")


def unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def finish(axes: Axes, title: str, x: str, y: str, *, legend: bool = True) -> None:
    axes.set_title(title, fontsize=10.5, loc="left")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.set_xscale("log", base=2)
    axes.grid(color="#e3e3e3", linewidth=0.8)
    axes.spines[["top", "right"]].set_visible(False)
    if legend:
        axes.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))


if __name__ == "__main__":
    main()
