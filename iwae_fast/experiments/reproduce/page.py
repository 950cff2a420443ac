"""The page of a table: our figures beside the published ones, training curves and reconstructions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ...data import ImageData
from ...files import replace_file
from ...models import LatentVariableModel
from ..pictures import pictures, plots
from ..report.page import Figure, render
from ..train.metrics import EpochMetrics, read_metrics
from ..train.run_data import load_own_data
from ..train.runs import Run, open_trained, trained_model
from .outcome import Outcome
from .scales import Scale
from .tables import DATASETS, Entry, Table


@dataclass(frozen=True)
class _Done:
    """An entry whose first trial is finished."""

    entry: Entry
    run: Run


def write_page(
    path: Path,
    table: Table,
    scale_name: str,
    scale: Scale,
    k: int,
    entries: Sequence[Entry],
    outcomes: Sequence[Outcome],
    folder: Path,
    command: str | None,
) -> None:
    """Write the page of a table whose runs are under ``folder``."""
    done = [_Done(entry, run) for entry in entries if (run := Run(folder / entry.runs[0].name)).evaluation.exists()]
    sources, figures = {}, []
    for dataset in dict.fromkeys(each.entry.dataset for each in done):
        on_dataset = [each for each in done if each.entry.dataset == dataset]
        _, checkpoint = open_trained(on_dataset[0].run.folder)
        data = load_own_data(checkpoint, on_dataset[0].run.checkpoint)
        sources[DATASETS[dataset]] = data.source
        figures += [_curves(dataset, on_dataset), *_reconstructions(dataset, on_dataset, data)]
    columns = list(dict.fromkeys(outcome.column for outcome in outcomes))
    rows = list(dict.fromkeys(outcome.row for outcome in outcomes))
    page = render(
        "reproduction.html",
        table=table,
        scale_name=scale_name,
        scale=scale,
        k=k,
        columns=columns,
        rows=rows,
        cells={(outcome.row, outcome.column): outcome for outcome in outcomes},
        outcomes=outcomes,
        with_budget=any("budget" in run.settings for entry in entries for run in entry.runs),
        sources=sources,
        figures=figures,
        command=command,
    )
    replace_file(path, page.encode())


def _curves(dataset: str, done: Sequence[_Done]) -> Figure:
    runs: dict[str, list[EpochMetrics]] = {
        f"{each.entry.column.split(', ')[-1]}, {each.entry.row}": read_metrics(each.run.metrics) for each in done
    }
    return Figure.drawn(
        lambda theme: plots.bounds_by_epoch(runs, DATASETS[dataset], theme),
        f"Training bounds on {DATASETS[dataset]}",
        "Mean of each run's objective over each epoch. The bound depends on k, so only the likelihoods in the table "
        "can be compared.",
    )


def _reconstructions(dataset: str, done: Sequence[_Done], data: ImageData) -> list[Figure]:
    """Draw reconstructions of the last row per column (most samples and layers), or of all rows of a single column."""
    if not pictures.are_images(data.image_shape):
        return []
    columns = {each.entry.column for each in done}
    labeled = {each.entry.row if len(columns) == 1 else each.entry.column.split(", ")[-1]: each for each in done}
    models: dict[str, LatentVariableModel] = {}
    for label, each in labeled.items():
        _, checkpoint = open_trained(each.run.folder)
        models[label] = trained_model(checkpoint)
    shown = {} if len(columns) == 1 else {label: each.entry.row for label, each in labeled.items()}
    return [
        Figure.drawn(
            lambda theme: pictures.side_by_side(models, data, theme),
            f"Reconstructions of {DATASETS[dataset]} test images",
            "The mean of p(x | z) at the posterior mean of z. "
            + "; ".join(f"{column}: {row}" for column, row in shown.items()),
        )
    ]
