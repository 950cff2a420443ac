"""``iwae-fast reproduce TABLE``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import Interrupted, choices
from .interrupt import stop_on_signals
from .invocation import command_line
from .options import Device

if TYPE_CHECKING:
    from rich.table import Table as Printed

    from ..reproduce.outcome import Outcome
    from ..reproduce.tables import Entry, RunOfTable


def reproduce(
    table: Annotated[
        str,
        typer.Argument(
            metavar="TABLE",
            help=f"{', '.join(choices.TABLES)}.",
            autocompletion=choices.completing(choices.TABLES),
        ),
    ],
    scale: Annotated[
        str,
        typer.Option(
            help=f"Amount of training and evaluation: {', '.join(choices.SCALES)}.",
            autocompletion=choices.completing(choices.SCALES),
        ),
    ] = "small",
    stages: Annotated[int | None, typer.Option(help="Number of stages, 1 to 8.", show_default="the scale's")] = None,
    epochs: Annotated[
        int | None, typer.Option(help="Epochs, for tables without stages.", show_default="the scale's")
    ] = None,
    trials: Annotated[
        int | None, typer.Option(help="Trials per entry, for tables that have several.", show_default="the scale's")
    ] = None,
    only: Annotated[
        str | None, typer.Option(help="Only runs whose name matches this regular expression.", show_default="all")
    ] = None,
    jobs: Annotated[int, typer.Option(help="Number of concurrent runs, which share the cores or the GPUs.")] = 1,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of all tables, with one subfolder per scale.")
    ] = Path("reproductions"),
    device: Device = None,
) -> None:
    """Reproduce a table of a paper, and compare the results with the published figures.

    Finished runs are kept, and interrupted ones resume when the command is run again.
    """
    from ... import checks
    from ...files import write_json
    from ..protocols import STAGES
    from ..reproduce.outcome import content, outcome
    from ..reproduce.page import write_page
    from ..reproduce.runner import Runner, evaluation_of
    from ..reproduce.scales import SCALES
    from ..reproduce.tables import TABLES
    from .progress import console

    for what, name, known in (("table", table, TABLES), ("scale", scale, SCALES)):
        checks.one_of(what, name, known)
    if checks.positive("jobs", jobs) > 1 and device is not None and ":" in device:
        raise ValueError(f"device must be cpu or cuda with several jobs, which take the GPUs in turn, got {device!r}")
    chosen = SCALES[scale]
    given = {"stages": stages, "epochs": epochs, "trials": trials}
    changed = {name: checks.positive(name, value) for name, value in given.items() if value is not None}
    if stages is not None and stages > STAGES:
        raise ValueError(f"stages must be at most {STAGES}, got {stages}")
    chosen = replace(chosen, **changed)  # type: ignore[arg-type]
    name = "-".join([scale, *(f"{setting}{value}" for setting, value in changed.items())])
    spec = TABLES[table]
    for setting in changed:
        one, two = (replace(chosen, **{setting: value}) for value in (1, 2))  # type: ignore[arg-type]
        if spec.entries(one) == spec.entries(two):
            raise ValueError(f"--{setting} has no effect on table {table!r}")
    k = chosen.k if spec.k is None else min(chosen.k, spec.k)
    entries = spec.entries(chosen)
    runs = _chosen(entries, only)
    folder = output / name
    with stop_on_signals() as stop:
        options = {} if device is None else {"device": device}
        runner = Runner(folder, chosen, k, jobs, options, stop)
        console.print(f"{len(runs)} runs in {folder}, {sum(runner.is_done(r) for r in runs)} of them done")
        failures = runner.run_all(runs, lambda run: console.print(f"done: {run.name}"))
    outcomes = [outcome(entry, folder, lambda run: evaluation_of(run, chosen, k)) for entry in entries]
    console.print(_printed(spec.title, outcomes))
    write_json(folder / f"{table}.json", content(table, spec, name, chosen, k, outcomes))
    write_page(folder / f"{table}.html", spec, name, chosen, k, entries, outcomes, folder, command_line())
    console.print(str(folder / f"{table}.html"))
    if failures:
        raise ValueError("; ".join(map(str, failures)))
    if stop():
        raise Interrupted(f"interrupted, everything is saved; resume with: {command_line()}", stop.number)


def _chosen(entries: list[Entry], only: str | None) -> list[RunOfTable]:
    runs = {run.name: run for entry in entries for run in entry.runs}
    try:
        chosen = [run for run in runs.values() if only is None or re.search(only, run.name)]
    except re.error as error:
        raise ValueError(f"--only must be a regular expression, got {only!r}: {error}") from error
    if not chosen:
        raise ValueError(f"no run matches {only!r}: the runs are {', '.join(runs)}")
    return chosen


def _printed(title: str, outcomes: list[Outcome]) -> Printed:
    from rich.table import Table as Printed

    from ..report.page import duration, fixed, signed

    printed = Printed(title=title, title_justify="left")
    printed.add_column("")
    for right in ("test NLL", "active", "published", "active", "difference", "paired gain", "training"):
        printed.add_column(right, justify="right")
    for each in outcomes:
        printed.add_row(
            f"{each.column}: {each.row}",
            fixed(each.nll, 2) + ("" if each.std_error is None else f" ± {fixed(each.std_error, 2)}"),
            each.units or "",
            fixed(each.published, 2),
            each.published_units or "",
            signed(each.difference, 2),
            "" if each.gain is None else f"{signed(each.gain.nll, 2)} ± {fixed(each.gain.std_error, 2)}",
            duration(each.seconds),
        )
    return printed
