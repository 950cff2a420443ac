"""Self-contained HTML pages: numbers, tables and pictures in one file that needs no network and no JavaScript."""

from .comparison import write_comparison
from .page import Figure, render
from .run import write_run_report

__all__ = ["Figure", "render", "write_comparison", "write_run_report"]
