"""Processes of tests, forked from one that has already imported slow modules."""

from __future__ import annotations

import multiprocessing
from multiprocessing.context import ForkServerContext

IMPORTED = (
    "iwae_fast.experiments.cli.train",
    "iwae_fast.experiments.cli.closing",
    "iwae_fast.experiments.processes",
    "benchmarks.workers",
    "matplotlib.pyplot",
    "sklearn.datasets",
    "torch._dynamo",
    "torch.distributed",
    "torch.distributed.device_mesh",
    "torch.distributed.elastic.multiprocessing.errors",
)
"""The modules imported for all tests: a process has one fork server, whose modules are fixed when it starts."""


def context() -> ForkServerContext:
    """Return a multiprocessing context whose processes have imported the installed modules of ``IMPORTED``."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context
