"""Comparisons of runs as tables in the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from ..evaluate.comparison import Summary
from ..report.page import duration, fixed, plain, signed
from .progress import console


def print_comparison(summaries: Sequence[Summary]) -> None:
    """Print the settings and the evaluations of the runs, within 80 columns."""
    numbers = range(1, len(summaries) + 1)
    for number, summary in zip(numbers, summaries, strict=True):
        console.print(f"{number}: {summary.run}")
    tables = _table(RUNS, summaries), _table(EVALUATIONS, summaries)
    for table in tables:
        console.print(table)
    for number, summary in zip(numbers, summaries, strict=True):
        if len(summary.objectives) > 1:
            console.print(f"{number} was trained with {'; then '.join(summary.objectives)}")
    for number, summary in zip(numbers, summaries, strict=True):
        if summary.incomparable is not None:
            console.print(f"{number} is not compared with 1: {summary.incomparable}")


def _table(columns: Columns, summaries: Sequence[Summary]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    table.add_column("", justify="right")
    for name, is_number, _ in columns:
        table.add_column(name, justify="right" if is_number else "left", overflow="fold")
    for number, summary in enumerate(summaries, 1):
        table.add_row(str(number), *(write(summary) for *_, write in columns))
    return table


def _difference(summary: Summary) -> str:
    found = summary.difference
    return plain(None) if found is None else f"{signed(found.nll, 3)} ± {fixed(found.std_error, 3)}"


Columns = Sequence[tuple[str, bool, Callable[[Summary], str]]]
"""Columns of a table: name, whether they hold numbers, function from a summary to the text of the cell."""

RUNS: Columns = (
    ("data set", False, lambda summary: Path(summary.dataset).name),
    ("likelihood", False, lambda summary: summary.likelihood),
    ("bound", False, lambda summary: summary.bound),
    ("k", True, lambda summary: str(summary.k)),
    ("units", True, lambda summary: "+".join(map(str, summary.latent))),
    ("epochs", True, lambda summary: plain(summary.epochs)),
    ("training", True, lambda summary: duration(summary.seconds)),
)
EVALUATIONS: Columns = (
    ("test NLL", True, lambda summary: f"{fixed(summary.nll, 3)} ± {fixed(summary.std_error, 3)}"),
    ("difference", True, _difference),
    ("of", True, lambda summary: str(summary.observations)),
    ("k", True, lambda summary: str(summary.eval_k)),
    ("ESS", True, lambda summary: fixed(summary.ess, 1)),
    ("train NLL", True, lambda summary: fixed(summary.train_nll, 3)),
    (
        "active",
        True,
        lambda summary: plain(None) if summary.active_units is None else "+".join(map(str, summary.active_units)),
    ),
)
