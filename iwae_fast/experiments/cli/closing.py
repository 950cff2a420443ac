"""Evaluation of a run with progress bars, the report and printed results."""

from __future__ import annotations

from typing import Any

from ... import checks
from ...data import ImageData
from ...models import LatentVariableModel
from ..defaults import OBSERVATIONS
from ..evaluate.evaluations import all_evaluations, best_evaluation
from ..evaluate.other_rows import evaluate_other
from ..evaluate.results import evaluate_run
from ..pictures import pictures
from ..processes import ALONE, Processes
from ..report import write_run_report
from ..report.verdict import judge
from ..train.checkpoint import Checkpoint
from ..train.fixed_pixels import VALIDATION
from ..train.position import Position
from ..train.runs import Run, sole_evaluator
from .invocation import command_line
from .progress import console, evaluation_progress


def evaluate_and_print(
    run: Run,
    checkpoint: Checkpoint,
    model: LatentVariableModel,
    data: ImageData,
    *,
    k: int,
    observations: int | None = None,
    train_observations: int = OBSERVATIONS,
    pruned_observations: int = OBSERVATIONS,
    chunk_size: int | None = None,
    wait: bool = False,
    shorter: str = "fewer with --observations, --train-observations and --active-only-observations",
    processes: Processes = ALONE,
) -> dict[str, Any]:
    """Evaluate on the test set (or its first ``observations``), write numbers and the report, print the likelihood.

    Returns the numbers.

    Args:
        shorter: text for long evaluations that names the options that make them shorter.
        wait: wait while another process evaluates the run, instead of raising ValueError.
        processes: the processes that evaluate together and all call this.
    """
    _check(k, observations)
    for name, value in (
        ("train-observations", train_observations),
        ("active-only-observations", pruned_observations),
    ):
        if value < 0:
            raise ValueError(f"{name} must be at least 0, got {value}")
    tested = len(data.test) if observations is None else min(observations, len(data.test))
    sizes = (tested, min(train_observations, len(data.train)), min(pruned_observations, tested))
    thing = pictures.thing(data.image_shape)
    with (
        processes.holding(sole_evaluator(run.folder, wait)),
        evaluation_progress(k * sum(sizes) // processes.size, sum(sizes), k, shorter) as progress,
    ):
        console.print(f"evaluating {Position.of(checkpoint, data).describe()}")
        result = evaluate_run(
            run,
            checkpoint,
            model,
            data,
            k=k,
            observations=observations,
            train_observations=train_observations,
            pruned_observations=pruned_observations,
            chunk_size=chunk_size,
            progress=lambda name, pairs: progress(name.replace("image", thing), pairs // processes.size),
            command=command_line(),
            processes=processes,
        )
        if not processes.is_first:
            return result
        write_run_report(run, checkpoint, model, data)
        best = best_evaluation(all_evaluations(run))
    for line in _lines(result, thing):
        console.print(line)
    shown = ""
    if best is not None and best.content["evaluated_at"] != result["evaluated_at"]:
        found = best.content
        shown = f", of the evaluation with k = {found['k']} and {found['observations']} test images"
    console.print(f"report {run.report}{shown}")
    return result


def evaluate_other_and_print(
    run: Run,
    checkpoint: Checkpoint,
    model: LatentVariableModel,
    data: ImageData,
    *,
    k: int,
    observations: int | None = None,
    chunk_size: int | None = None,
    processes: Processes = ALONE,
) -> None:
    """Evaluate a run on data other than its test set, and print the path of the results per row."""
    _check(k, observations)
    tested = len(data.test) if observations is None else min(observations, len(data.test))
    with (
        processes.holding(sole_evaluator(run.folder)),
        evaluation_progress(k * tested // processes.size, tested, k, "fewer with --observations") as progress,
    ):
        result, rows = evaluate_other(
            run,
            checkpoint,
            model,
            data,
            k=k,
            observations=observations,
            chunk_size=chunk_size,
            progress=lambda name, pairs: progress(name, pairs // processes.size),
            command=command_line(),
            processes=processes,
        )
    where = f"{data.source.rstrip('.')}; not the run's own data"
    if data.name == VALIDATION:
        where = "the run's validation set"
    console.print(
        f"NLL {_explained(result['nll'], result['std_error'])}step {result['step']}, "
        f"k = {k}, {result['observations']} of {result['test_observations']} observations of "
        f"{where}), mean ESS {result['ess']:.1f}"
    )
    console.print(f"results per row in {rows}")


def _check(k: int, observations: int | None) -> None:
    checks.positive("k", k)
    if observations is not None:
        checks.positive("observations", observations)


def _lines(result: dict[str, Any], thing: str) -> list[str]:
    lines = [
        f"test NLL {_explained(result['nll'], result['std_error'])}k = {result['k']}, "
        f"{result['observations']} of {result['test_observations']} test {thing}s), mean ESS {result['ess']:.1f}"
    ]
    if (verdict := judge(result)) is not None:
        lines.append(f"{verdict.title[0].lower()}{verdict.title[1:]}. {verdict.text}")
    if result["train_nll"] is not None:
        error = _with_error(result["train_nll"], result["train_std_error"])
        lines.append(f"train NLL {error} nats ({result['train_observations']} training {thing}s)")
    if result["active_units"] is not None:
        layers = zip(result["active_units"], result["units"], strict=True)
        lines.append("active units " + ", ".join(f"{active} of {size}" for active, size in layers))
    return lines


def _explained(value: float, error: float | None) -> str:
    """Return a mean with its error, which that of a single observation does not have, and an open parenthesis."""
    return f"{_with_error(value, error)} nats (" + ("" if error is None else "standard error; ")


def _with_error(value: float, error: float | None) -> str:
    return f"{value:.3f}" if error is None else f"{value:.3f} ± {error:.3f}"
