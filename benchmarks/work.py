"""What is measured: a *work*, the providers that do it, and how each shows that it does it right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch

Evidence = dict[str, Any]
"""What a provider computes, by name: its results, or figures of repeated evaluations, one entry each. NumPy arrays,
which cross to another process; from a GPU tensors that stay there, since to compare them is to read them all."""

Role = Literal["ours", "rival", "estimate", "bound"]
"""A ratio is a rival's time over that of the best of "ours". An "estimate" is ours too, whose gradient has the same
mean but more noise: it is not what rivals are held against. A "bound" does a part of the work and no more."""

CPU = torch.device("cpu")

BASELINE = "torch eager"
"""The provider that speed-ups are told over."""


class Task(NamedTuple):
    """A provider made ready, in the process that runs it."""

    run: Callable[[], Any]
    """Does the whole of the work once: what is timed."""
    evidence: Callable[[], Evidence]
    """What the check looks at."""
    note: str = ""
    """What the provider chose for itself, such as the size of its chunks."""


@dataclass(frozen=True)
class Check:
    """The truth, computed once, and what is wrong with some evidence about it."""

    compute: Callable[[], Evidence]
    disagreement: Callable[[Evidence, Evidence], str]
    """Of evidence and truth; the figures where they disagree, else nothing."""

    @cached_property
    def truth(self) -> Evidence:
        return self.compute()


@dataclass(frozen=True)
class Provider:
    """Who can do a work."""

    name: str
    prepare: Callable[[], Task]
    """Picklable: a worker process calls it."""
    check: Check | None
    """None for a bound, whose results are nobody's."""
    role: Role = "rival"
    package: str = "torch"
    """Whose version counts."""


@dataclass(frozen=True)
class Work:
    """Something to be done."""

    op: str
    mode: str
    shape: str
    providers: tuple[Provider, ...]
    k: int | None = None
    dtype: str = "float32"
    device: torch.device = CPU
    metric: str = "seconds"
    """Or "peak bytes"."""
    whole: bool = False
    """On a GPU: timed as it is called, Python's part and waiting included, and not as the kernels of one call. For what
    has graphs of its own, or waits for the device."""
    bytes: int = 0
    """What must cross the memory at least, each input read once a pass and each result written; 0 where untold."""

    def __str__(self) -> str:
        return f"{self.op} {self.mode} {self.shape} ({self.metric})"


class WrongResultError(RuntimeError):
    """Providers' results disagree with the reference. ``rows`` are what was measured of others, where any were."""

    def __init__(self, message: str, rows: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.rows = rows


def refuse_if_wrong(work: Work, provider: Provider, evidence: Evidence) -> None:
    """Nothing wrong is timed."""
    if provider.check is not None:
        disagreement = provider.check.disagreement(evidence, provider.check.truth)
        if disagreement:
            raise WrongResultError(f"{provider.name} is wrong in {work}: {disagreement}. Not timed")
