"""The page of a comparison."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ...files import replace_file
from ..evaluate.comparison import Summary
from .page import render


def write_comparison(path: Path, summaries: Sequence[Summary], command: str | None = None) -> None:
    """Write a comparison of runs as one self-contained HTML file."""
    replace_file(path, render("comparison.html", summaries=summaries, command=command).encode())
