"""What a GPU's figures should be, and whether they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from .rows import Row
from .table import median
from .work import BASELINE

Judge = Callable[[Row, Sequence[Row]], "Verdict | None"]
"""Of one of our rows, beside all there are; None where what it needs was not measured."""


@dataclass(frozen=True)
class Verdict:
    """Whether a figure is what it should be."""

    met: bool
    figures: str


@dataclass(frozen=True)
class Target:
    """What each provider of this package should reach in some works."""

    text: str
    judge: Judge
    op: str
    mode: str
    shape: str = ""
    """What the work's shape begins with."""
    metric: str = "seconds"
    providers: str = "iwae_fast"
    """What the providers' names begin with."""
    suffix: str = field(default="", kw_only=True)
    """What they end with."""

    def rows(self, rows: Sequence[Row]) -> list[Row]:
        """Those that the target is about."""
        return [
            row
            for row in rows
            if (row.op, row.mode, row.metric) == (self.op, self.mode, self.metric)
            and row.shape.startswith(self.shape)
            and row.provider.startswith(self.providers)
            and row.provider.endswith(self.suffix)
        ]


def of_copy(part: float) -> Judge:
    """The bandwidth is at least this part of the copy's."""

    def judge(row: Row, rows: Sequence[Row]) -> Verdict | None:
        copy = next((other for other in rows if other.op == "copy"), None)
        if copy is None:
            return None
        found = (row.bytes / row.median) / (copy.bytes / copy.median)
        return Verdict(found >= part, f"{found:.0%} of {copy.bytes / copy.median / 1e9:.0f} GB/s")

    return judge


def times(factor: float, rival: str = BASELINE, op: str | None = None) -> Judge:
    """The rival takes at least so many times longer, or needs so many times more memory: in the same work, or in that
    of an ``op``."""

    def judge(row: Row, rows: Sequence[Row]) -> Verdict | None:
        held = [other for other in rows if (other.op == op if op else other.work == row.work)]
        other = next((other for other in held if other.provider == rival), None)
        if other is None:
            return None
        found = other.median / row.median if row.median else float("inf")
        return Verdict(found >= factor, f"{found:.2f} ({median(row)}; {rival} {median(other)})")

    return judge


def at_most(seconds: float, of: int = 1) -> Judge:
    """So many repetitions take at most so long."""

    def judge(row: Row, rows: Sequence[Row]) -> Verdict:  # noqa: ARG001 - a Judge has these arguments
        found = of * row.median
        return Verdict(found <= seconds, f"{found / 60:.1f} min" if seconds >= 60 else f"{1e3 * found:.3f} ms")

    return judge


def table(targets: Sequence[Target], rows: Sequence[Row]) -> str:
    """As Markdown: a line for each target and provider."""
    lines = ["| target | provider | met | figures |", "| --- | --- | --- | --- |"]
    for target in targets:
        mine = target.rows(rows)
        for row in mine:
            verdict = target.judge(row, rows)
            told = ("?", "what it is held against was not measured")
            if verdict is not None:
                told = ("yes" if verdict.met else "NO", verdict.figures)
            lines.append(f"| {target.text} | {row.provider} {row.dtype} | {told[0]} | {told[1]} |")
        if not mine:
            lines.append(f"| {target.text} | | ? | not measured |")
    return "\n".join(lines)
