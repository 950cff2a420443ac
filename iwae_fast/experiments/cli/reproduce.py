"""``iwae-fast reproduce TABLE``."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from . import choices
from .interrupt import stop_on_signals
from .invocation import command_line
from .many import checked_launcher, end, run_works
from .options import Device, Jobs, LauncherTemplate, SideBySide

if TYPE_CHECKING:
    from rich.table import Table as Printed

    from ..reproduce.outcome import Outcome
    from ..reproduce.tables import Entry, RunOfTable
    from ..reproduce.work import TableWork


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
    part: Annotated[
        str | None,
        typer.Option(
            metavar="I/N", help="Only every N-th run, from the I-th: the part of one of N machines.", show_default="all"
        ),
    ] = None,
    jobs: Jobs = 1,
    side_by_side: SideBySide = 1,
    launcher: LauncherTemplate = None,
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
    from ..reproduce.scales import SCALES
    from ..reproduce.tables import TABLES
    from ..reproduce.work import TableWork, evaluation_of, when_ready, with_ancestors
    from .progress import console

    for what, name, known in (("table", table, TABLES), ("scale", scale, SCALES)):
        checks.one_of(what, name, known)
    checks.positive("side-by-side", side_by_side)
    launch = checked_launcher(launcher, jobs, device)
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
    runs = _part(_chosen(entries, only), part)
    folder = output / name
    parent = folder if launch is None else folder.absolute()  # the command may start elsewhere
    options = {} if device is None else {"device": device}
    works = [TableWork(run, parent, chosen, k, options) for run in with_ancestors(runs)]
    done: set[str] = set()

    def ended(work: TableWork) -> None:
        done.add(work.name)

    with stop_on_signals() as stop:
        console.print(f"{len(works)} runs in {folder}, {sum(map(_is_done, works))} of them done")
        failures = run_works(when_ready(works, done), folder, jobs, launch, stop, ended, side_by_side)
    outcomes = [outcome(entry, folder, lambda run: evaluation_of(run, chosen, k)) for entry in entries]
    console.print(_printed(spec.title, outcomes))
    write_json(folder / f"{table}.json", content(table, spec, name, chosen, k, outcomes))
    write_page(folder / f"{table}.html", spec, name, chosen, k, entries, outcomes, folder, command_line())
    console.print(str(folder / f"{table}.html"), markup=False)
    end(failures, stop, launch)


def _is_done(work: TableWork) -> bool:
    """Return whether a run is done; False if its files are damaged, which is reported when it is continued."""
    from ..many.training import DAMAGED

    try:
        return work.is_done()
    except DAMAGED:
        return False


def _chosen(entries: list[Entry], only: str | None) -> list[RunOfTable]:
    runs = {run.name: run for entry in entries for run in entry.runs}
    try:
        chosen = [run for run in runs.values() if only is None or re.search(only, run.name)]
    except re.error as error:
        raise ValueError(f"--only must be a regular expression, got {only!r}: {error}") from error
    if not chosen:
        raise ValueError(f"no run matches {only!r}: the runs are {', '.join(runs)}")
    return chosen


def _part(runs: list[RunOfTable], part: str | None) -> list[RunOfTable]:
    """Return every n-th of the runs, from the i-th, for ``part`` "i/n"."""
    if part is None:
        return runs
    match = re.fullmatch(r"(\d+)/(\d+)", part)
    if match is None or not 1 <= int(match[1]) <= int(match[2]):
        raise ValueError(f"--part must be I/N with I from 1 to N, such as 1/4, got {part!r}")
    return runs[int(match[1]) - 1 :: int(match[2])]


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
