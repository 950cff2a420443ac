"""Performance targets on a GPU, and the check of results against them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from . import copy
from .rows import Row
from .table import median
from .work import BASELINE

Judge = Callable[[Row, Sequence[Row]], "Verdict | None"]
"""A function that judges one of our rows, given all rows; None if a row that it needs was not measured."""


@dataclass(frozen=True)
class Verdict:
    """The result of checking a row against a target."""

    met: bool
    figures: str


@dataclass(frozen=True)
class Target:
    """A target for providers of this package in some workloads."""

    text: str
    judge: Judge
    op: str
    mode: str
    shape: str = ""
    """The prefix of the workload's shape."""
    metric: str = "seconds"
    providers: str = "iwae_fast"
    """The prefix of the providers' names."""
    suffix: str = field(default="", kw_only=True)
    """The suffix of the providers' names."""

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """Return the rows to which the target applies."""
        return [
            row
            for row in rows
            if (row.op, row.mode, row.metric) == (self.op, self.mode, self.metric)
            and row.shape.startswith(self.shape)
            and row.provider.startswith(self.providers)
            and row.provider.endswith(self.suffix)
        ]


def copy_bandwidth(part: float) -> Judge:
    """Return a judge that requires at least this fraction of the bandwidth of a copy.

    That is a copy of as many bytes, measured beside the row; in older files the fastest copy.
    """

    def judge(row: Row, rows: Sequence[Row]) -> Verdict | None:
        bandwidth, fastest, found = row.bytes / row.median, copy.best(rows), row.of_copy
        if found is None:
            if fastest is None:
                return None
            found = bandwidth / fastest
        return Verdict(found >= part, f"{found:.0%} of {bandwidth / found / 1e9:.0f} GB/s")

    return judge


def times(factor: float, rival: str = BASELINE, op: str | None = None, shape: str = "") -> Judge:
    """Return a judge that requires the rival to take at least ``factor`` times the time or memory.

    The rival is measured in the same workload, or in that of ``op`` with a shape that begins with ``shape``, in the
    row's dtype.
    """

    def held_to(other: Row, row: Row) -> bool:
        if op is None:
            return other.work == row.work
        return (other.op, other.dtype) == (op, row.dtype) and other.shape.startswith(shape)

    def judge(row: Row, rows: Sequence[Row]) -> Verdict | None:
        held = [other for other in rows if held_to(other, row)]
        other = next((other for other in held if other.provider == rival), None)
        if other is None:
            return None
        found = other.median / row.median if row.median else float("inf")
        return Verdict(found >= factor, f"{found:.2f} ({median(row)}; {rival} {median(other)})")

    return judge


def at_most(seconds: float, of: int = 1) -> Judge:
    """Return a judge that requires ``of`` repetitions to take at most ``seconds``."""

    def judge(row: Row, rows: Sequence[Row]) -> Verdict:  # noqa: ARG001 - a Judge has these arguments
        found = of * row.median
        return Verdict(found <= seconds, f"{found / 60:.1f} min" if seconds >= 60 else f"{1e3 * found:.3f} ms")

    return judge


def table(targets: Sequence[Target], rows: Sequence[Row]) -> str:
    """Return a Markdown table with one line per target and provider."""
    lines = ["| target | provider | met | figures |", "| --- | --- | --- | --- |"]
    for target in targets:
        mine = target.rows(rows)
        for row in mine:
            verdict = target.judge(row, rows)
            told = ("?", "the row to compare with was not measured")
            if verdict is not None:
                told = ("yes" if verdict.met else "NO", verdict.figures)
            lines.append(f"| {target.text} | {row.provider} {row.dtype} | {told[0]} | {told[1]} |")
        if not mine:
            lines.append(f"| {target.text} | | ? | not measured |")
    return "\n".join(lines)
