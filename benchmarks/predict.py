"""Times of this package's ops on an H100, predicted without a GPU, and the comparison of results with them.

The counts of instructions and bytes come from ``results/launches-sm90.csv``, which ``tests/support/launch_counts.py``
makes from the machine code.
"""

from __future__ import annotations

import csv
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .kernel_model import NODE, Kernel, seconds
from .launches import launches_of, products
from .rows import Row

RESULTS = Path(__file__).parent / "results"
COUNTS = RESULTS / "launches-sm90.csv"
PREDICTED = RESULTS / "predicted-h100.csv"

MODES = ("forward", "backward", "forward+backward")

OFF = 1.3
"""The factor beyond which a prediction counts as wrong."""

WORKS = (
    ("bernoulli_iwae_loss", "forward+backward", "k=50 B=1024 D=784", "float32"),
    *(("bernoulli_log_prob", mode, "k=50 B=2048 D=784", "float32") for mode in MODES),
    *(("linear_bernoulli_log_prob", mode, "k=50 B=1024 H=200 D=784", "float32") for mode in (MODES[0], MODES[2])),
    ("gaussian_iwae_loss", "forward+backward", "k=50 B=1024 D=784", "float32"),
    *(("gaussian_log_prob", mode, "k=50 B=2048 D=784", "float32") for mode in MODES),
    *(("bernoulli_log_prob", mode, "k=50 B=2048 D=784", "bfloat16") for mode in MODES),
    *(("standard_gaussian_log_prob", mode, "k=50 B=2048 D=784", "float32") for mode in MODES),
    *(("log_mean_exp", mode, "k=50 B=1048576", "float32") for mode in MODES),
    ("sample_gaussian", "forward+backward", "k=50 B=1024 Z=50", "float32"),
    ("bernoulli_iwae_loss", "forward+backward", "k=50 B=20 D=784", "float32"),
    ("linear_bernoulli_iwae_loss", "forward+backward", "k=50 B=1024 H=200 D=784", "float32"),
)
"""Op, mode, shape and dtype of the ops that `make gpu` times."""


class Prediction(NamedTuple):
    op: str
    provider: str
    mode: str
    shape: str
    dtype: str
    seconds: float
    limit: str
    """The limit of the longest launch: copy, issue, special or latency; products for a linear layer."""

    @property
    def key(self) -> tuple[str, str, str, str, str]:
        return self[:5]


def predict(kernels: Sequence[Kernel], works: Iterable[Sequence[str]] = WORKS) -> list[Prediction]:
    """Predict the times of our backends in the works (op, mode, shape, dtype) for which there are kernels."""
    made = []
    for row in works:
        op, mode, shape, dtype = row
        for backend in ("cuda", "triton"):
            linear = op.startswith("linear")
            multiplied, launches = (
                products(row, backend, kernels) if linear else (0.0, launches_of(row, backend, kernels))
            )
            if not launches and not multiplied:
                continue
            each = [seconds(launch) for launch in launches]
            total = multiplied + sum(time for time, _ in each) + NODE * len(each)
            limit = "products" if linear else max(each)[1]
            made.append(Prediction(op, f"iwae_fast {backend}", mode, shape, dtype, float(f"{total:.4g}"), limit))
    return made


def write(predictions: Sequence[Prediction], path: Path = PREDICTED) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(Prediction._fields)
        writer.writerows(predictions)


def comparison(predictions: Sequence[Prediction], rows: Sequence[Row]) -> str:
    """Return a Markdown table of measured and predicted times, and a line with the errors.

    An error is the larger of measured / predicted and predicted / measured.
    """
    lines = [
        "| op | provider | predicted | measured | measured / predicted | limit |",
        "| --- | --- | ---: | ---: | ---: | --- |",
    ]
    measured = {(r.op, r.provider, r.mode, r.shape, r.dtype): r for r in rows if r.metric == "seconds"}
    errors = []
    for each in predictions:
        row = measured.get(each.key)
        ratio = row.median / each.seconds if row is not None else None
        if ratio is not None:
            errors.append(max(ratio, 1.0 / ratio))
        told = ("", "") if row is None or ratio is None else (f"{1e6 * row.median:.1f} us", f"{ratio:.2f}")
        name = f"{each.op}, {each.mode}, {each.shape}" + ("" if each.dtype == "float32" else f", {each.dtype}")
        lines.append("| " + " | ".join((name, each.provider, f"{1e6 * each.seconds:.1f} us", *told, each.limit)) + " |")
    lines.append("")
    if errors:
        off = sum(error > OFF for error in errors)
        lines.append(
            f"predictions: {off} of {len(errors)} rows are off by more than {OFF:g}; "
            f"median error {statistics.median(errors):.2f}, largest {max(errors):.2f}"
        )
    others = {
        row.device for row in measured.values() if row.provider.startswith("iwae_fast") and "H100" not in row.device
    }
    if others:
        lines.append(f"the predictions are for an H100, not for {', '.join(sorted(others))}")
    return "\n".join(lines)
