"""The workloads that are measured, their providers, and the check of each provider's results."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, NamedTuple

import torch

Evidence = dict[str, Any]
"""A provider's results by name, or figures of repeated evaluations with one entry each. They are NumPy arrays, which
can be sent to another process, or tensors on a GPU, where they are compared without copying them to the host."""

Role = Literal["ours", "rival", "estimate", "bound"]
"""The role of a provider. Ratios are a "rival"'s time divided by that of the best of "ours". An "estimate" is also
ours, but its gradient has more noise around the same mean, so rivals are not compared with it. A "bound" does only part
of the work."""

CPU = torch.device("cpu")

BASELINE = "torch eager"
"""The provider relative to which speed-ups are given."""

COMPILED = "torch.compile"
"""The provider that uses torch's compiler; names of its variants begin with this."""

COPIED = "copy of its bytes"
"""The bound of an op on a GPU: a copy that reads and writes as many bytes in all."""


class Task(NamedTuple):
    """A prepared provider, in the process that runs it."""

    run: Callable[[], Any]
    """The timed function, which does the whole work once."""
    evidence: Callable[[], Evidence]
    """A function that returns the results to check."""
    note: str = ""
    """Settings that the provider chose itself, such as its chunk size."""


@dataclass(frozen=True)
class Check:
    """The check of a provider's evidence against the truth, which is computed once."""

    compute: Callable[[], Evidence]
    disagreement: Callable[[Evidence, Evidence], str]
    """A function of evidence and truth that describes where they disagree, or returns an empty string."""

    @cached_property
    def truth(self) -> Evidence:
        return self.compute()


@dataclass(frozen=True)
class Provider:
    """An implementation of a workload."""

    name: str
    prepare: Callable[[], Task]
    """A function that prepares the provider; picklable, since a worker process calls it."""
    check: Check | None
    """The check of the results; None for a bound, whose results have no meaning."""
    role: Role = "rival"
    package: str = "torch"
    """The package whose version is reported."""


@dataclass(frozen=True)
class Work:
    """A workload to measure."""

    op: str
    mode: str
    shape: str
    providers: tuple[Provider, ...]
    k: int | None = None
    dtype: str = "float32"
    device: torch.device = CPU
    metric: str = "seconds"
    """The measured quantity: "seconds" or "peak bytes"."""
    whole: bool = False
    """On a GPU, True to time calls as a whole, including Python and synchronization, instead of the kernels of one
    call. For workloads that use CUDA graphs themselves, or synchronize."""
    read: int = 0
    """The bytes that must at least be read: each input once per pass; 0 if unknown."""
    written: int = 0
    """The bytes that must at least be written: each result and gradient once; 0 if unknown."""

    @property
    def bytes(self) -> int:
        return self.read + self.written

    def __str__(self) -> str:
        return f"{self.op} {self.mode} {self.shape} ({self.metric})"


class WrongResultError(RuntimeError):
    """Raised if results of providers disagree with the reference; ``rows`` has the rows of the other providers."""

    def __init__(self, message: str, rows: Sequence[Any] = ()) -> None:
        super().__init__(message)
        self.rows = rows


def refuse_if_wrong(work: Work, provider: Provider, evidence: Evidence) -> None:
    """Raise WrongResultError if the results are wrong, so that they are not timed."""
    if provider.check is not None:
        disagreement = provider.check.disagreement(evidence, provider.check.truth)
        if disagreement:
            raise WrongResultError(f"{provider.name} is wrong in {work}: {disagreement}. Not timed")
