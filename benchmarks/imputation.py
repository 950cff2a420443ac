"""``python -m benchmarks.imputation``: errors of imputations on the tables inside scikit-learn.

Values of a complete table are removed, all methods impute the same holes, and the root mean square error over them is
that of columns standardized by the complete table. Tasks "features" have the features alone; tasks "with class" have
the class label as a categorical column, whose error is the share of wrong classes; the rivals get it as one indicator
column per class. "at random": every value goes missing with one probability. "not at random": a value x, in standard
deviations, goes missing with probability sigmoid(2 x + c), c being such that the share is reached per column.

Rows are appended to the output, and those that it has are not computed again.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

OUTPUT = Path(__file__).parent / "results" / "imputation.csv"
FRACTIONS, SEEDS = (0.1, 0.3, 0.5), 5
STEPS = 600
"""Training steps of the models, of 64 rows each."""

Array = NDArray[np.float64]


class Task(NamedTuple):
    """A table with holes."""

    table: str
    columns: str
    missing: str
    fraction: float
    seed: int


class Row(NamedTuple):
    """The errors of one method on one task; ``class_error`` is empty without a class column."""

    table: str
    columns: str
    missing: str
    fraction: float
    seed: int
    method: str
    rmse: float
    class_error: float | None
    seconds: float


def load(name: str) -> tuple[Array, NDArray[np.int64]]:
    """Return the standardized features (N, D) of a table, and its classes (N,)."""
    from sklearn import datasets

    found = getattr(datasets, f"load_{name}")()
    x = found.data.astype(np.float64)
    return (x - x.mean(0)) / x.std(0), np.asarray(found.target)


def tasks() -> Iterator[Task]:
    """Return all tasks, the quick ones first."""
    tables = ("iris", "wine", "diabetes", "breast_cancer")
    kinds = (("features", "at random"), ("features", "not at random"), ("with class", "at random"))
    for chosen in (tables[:2], tables[2:]):
        for columns, missing in kinds:
            for table in chosen:
                if table == "diabetes" and columns == "with class":
                    continue  # its target is a number
                for fraction in FRACTIONS:
                    for seed in range(SEEDS):
                        yield Task(table, columns, missing, fraction, seed)


def holes(x: Array, missing: str, fraction: float, generator: np.random.Generator) -> NDArray[np.bool_]:
    """Return where values go missing, bool (N, D)."""
    uniform = generator.random(x.shape)
    if missing == "at random":
        return uniform < fraction
    probability = np.empty_like(x)
    for column in range(x.shape[1]):
        low, high = -50.0, 50.0
        for _ in range(60):  # bisection for c
            middle = 0.5 * (low + high)
            share = (1.0 / (1.0 + np.exp(-(2.0 * x[:, column] + middle)))).mean()
            low, high = (middle, high) if share < fraction else (low, middle)
        probability[:, column] = 1.0 / (1.0 + np.exp(-(2.0 * x[:, column] + low)))
    return uniform < probability


def with_indicators(impute: Callable[[Array], Array], x: Array, classes: int) -> Array:
    """Impute a table whose last column is a class by indicator columns; without classes, by itself."""
    if not classes:
        return impute(x)
    label = x[:, -1]
    indicators = (label[:, None] == np.arange(classes)).astype(np.float64)
    indicators[np.isnan(label)] = np.nan
    found = impute(np.concatenate([x[:, :-1], indicators], 1))
    return np.concatenate([found[:, :-classes], found[:, -classes:].argmax(1)[:, None]], 1)


def methods(task: Task, rows: int, classes: int) -> dict[str, Callable[[Array], Array]]:
    """Return the methods of a task by name, each from a table with NaN to one without."""
    from sklearn.experimental import enable_iterative_imputer  # noqa: F401
    from sklearn.impute import IterativeImputer, KNNImputer, SimpleImputer

    from iwae_fast.contrib.sklearn import MIWAEImputer

    def miwae(**settings: Any) -> Callable[[Array], Array]:
        epochs = math.ceil(STEPS / math.ceil(rows / 64))
        imputer = MIWAEImputer(max_epochs=epochs, random_state=task.seed, **settings)
        return lambda x: imputer.set_params(columns={x.shape[1] - 1: "categorical"} if classes else None).fit_transform(
            x
        )

    found: dict[str, Callable[[Array], Array]] = {}
    for name, rival in (
        ("mean", SimpleImputer()),
        ("KNNImputer", KNNImputer()),
        ("IterativeImputer", IterativeImputer(max_iter=20, random_state=0)),
    ):
        found[name] = lambda x, rival=rival: with_indicators(rival.fit_transform, x, classes)  # type: ignore[misc]
    found["MIWAE"] = miwae()
    if task.missing == "not at random":
        found["not-MIWAE"] = miwae(missingness="self-masking")
    return found


def run(task: Task) -> list[Row]:
    """Run every method on a task."""
    x, label = load(task.table)
    classes = int(label.max()) + 1 if task.columns == "with class" else 0
    generator = np.random.default_rng(task.seed)
    gone = holes(x, task.missing, task.fraction, generator)
    whole = x
    if classes:
        whole = np.concatenate([x, label[:, None].astype(np.float64)], 1)
        gone = np.concatenate([gone, generator.random((len(x), 1)) < task.fraction], 1)
    given = np.where(gone, np.nan, whole)
    rows = []
    for name, impute in methods(task, len(x), classes).items():
        started = time.perf_counter()
        found = impute(given)
        seconds = time.perf_counter() - started
        size = x.shape[1]
        error = math.sqrt(float(np.square((found - whole)[:, :size][gone[:, :size]]).mean()))
        wrong = float((found[:, -1] != whole[:, -1])[gone[:, -1]].mean()) if classes else None
        rows.append(Row(*task, name, error, wrong, seconds))
    return rows


def read(path: Path) -> list[Row]:
    """Read the rows of a file."""
    with path.open(newline="") as file:
        return [
            Row(
                row["table"],
                row["columns"],
                row["missing"],
                float(row["fraction"]),
                int(row["seed"]),
                row["method"],
                float(row["rmse"]),
                float(row["class_error"]) if row["class_error"] else None,
                float(row["seconds"]),
            )
            for row in csv.DictReader(file)
        ]


def _cell(values: list[float], baseline: list[float] | None) -> str:
    """Return the mean with its standard error over seeds, and the paired difference to MIWAE with its own."""

    def with_error(numbers: list[float]) -> str:
        error = statistics.stdev(numbers) / math.sqrt(len(numbers)) if len(numbers) > 1 else math.nan
        return f"{statistics.fmean(numbers):.3f} ± {error:.3f}"

    if baseline is None:
        return with_error(values)
    return f"{with_error(values)} ({with_error([a - b for a, b in zip(values, baseline, strict=True)])})"


def table(rows: list[Row]) -> str:
    """Return the results as Markdown tables: means ± standard errors over seeds, and the paired difference to MIWAE."""
    pages = []
    for columns, measure, title in (
        ("features", "rmse", "RMSE, features alone"),
        ("with class", "rmse", "RMSE of the features, with the class as a column"),
        ("with class", "class_error", "Share of wrong classes"),
    ):
        chosen = [row for row in rows if row.columns == columns]
        names = list(dict.fromkeys(row.method for row in chosen))
        lines = [
            f"{title}:",
            "",
            f"| table | missing | {' | '.join(names)} |",
            "| --- | --- |" + " ---: |" * len(names),
        ]
        for key in dict.fromkeys((row.table, row.missing, row.fraction) for row in chosen):
            by_method: dict[str, list[float]] = {}
            for row in sorted(chosen, key=lambda row: row.seed):
                if (row.table, row.missing, row.fraction) == key:
                    by_method.setdefault(row.method, []).append(float(getattr(row, measure)))
            ours = by_method.get("MIWAE")
            cells = [
                _cell(by_method[name], None if name == "MIWAE" else ours) if name in by_method else "" for name in names
            ]
            lines.append(f"| {key[0].replace('_', ' ')} | {key[2]:.0%} {key[1]} | {' | '.join(cells)} |")
        pages.append("\n".join(lines))
    return "\n\n".join(pages)


def main() -> None:
    """Run the tasks that the output lacks, and print the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.imputation", description=__doc__)
    parser.add_argument("--output", type=Path, default=OUTPUT)
    parser.add_argument("--only", default="", help="run only tasks whose table and columns contain this text")
    parser.add_argument("--table", action="store_true", help="print the tables of the output, and run nothing")
    chosen = parser.parse_args()
    warnings.filterwarnings("ignore", category=UserWarning, module="sklearn")  # that 20 iterations have not converged
    torch.set_num_threads(1)
    done = read(chosen.output) if chosen.output.exists() else []
    finished = {Task(*row[:5]) for row in done}
    if not chosen.table:
        for task in tasks():
            if task in finished or chosen.only not in f"{task.table} {task.columns}":
                continue
            rows = run(task)
            with chosen.output.open("a", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                if not file.tell():
                    writer.writerow(Row._fields)
                writer.writerows([*row[:6], *(f"{n:.4f}" if n is not None else "" for n in row[6:])] for row in rows)
            done += rows
            print(*task, *(f"{row.method}: {row.rmse:.3f}" for row in rows), sep="  ", flush=True)
    print(table(done))


if __name__ == "__main__":
    main()
