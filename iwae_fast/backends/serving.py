"""The backend that serves an op on CUDA tensors: the faster one, by the figures in this table and nothing else.

A call costs time twice: on the device, and in Python before the device can start. The device's time counts in large
calls; in small ones Python's does, which takes longer than their kernels. Each op therefore has two figures, and the
number of elements, as large as was measured, up to which the second one counts. A call that is captured into a CUDA
graph or replayed from one is served as it is without a graph, so that both give the same bits.

``tests/backends/test_serving.py`` compares the table with the committed files whose names begin with :data:`SOURCE`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import NamedTuple

from torch import compiler

SOURCE = "nvidia-h100-at-34ce24d"
"""The beginning of the names of the files in ``benchmarks/results`` that have the figures: card and commit."""

EVERY_SIZE = 2**63
"""A number of elements that no call exceeds."""


class Figure(NamedTuple):
    """The measured times of one work by two backends, in microseconds."""

    op: str
    mode: str
    shape: str
    cuda: float
    triton: float
    metric: str = "seconds"
    """The column ``metric`` of the file: "seconds" on the device, or "seconds with Python"."""

    @property
    def order(self) -> tuple[str, str]:
        """The backends, faster first."""
        return ("cuda", "triton") if self.cuda <= self.triton else ("triton", "cuda")

    def __str__(self) -> str:
        of_python = ", with its Python" if self.metric == "seconds with Python" else ""
        return f"{self.op} {self.mode}{of_python}, {self.shape}: cuda {self.cuda:g} us, triton {self.triton:g} us"


class Choice(NamedTuple):
    """The figure that decides about some calls of an op."""

    calls: str
    """The calls, in words."""
    figure: Figure


class Rule(NamedTuple):
    """The figures that decide about an op."""

    large: Figure
    small: Figure
    small_elements: int
    """The number of elements of the broadcast operands, features included, up to which ``small`` decides."""

    def order(self, elements: int | None) -> tuple[str, str]:
        """Return the backends, best first, for a call of this many elements; None if they cannot be counted."""
        return (self.small if elements is not None and elements <= self.small_elements else self.large).order

    def choices(self) -> list[Choice]:
        """Return the choices by the size of a call; a single one where size does not matter."""
        if self.small_elements == EVERY_SIZE:
            return [Choice("every call", self.small)]
        at_most = f"{self.small_elements:,} elements"
        return [
            Choice(f"calls of at most {at_most}", self.small),
            Choice(f"calls of more than {at_most}, and traced ones", self.large),
        ]


BOTH_WAYS = "forward+backward"

# Device times that decide about large calls.
BERNOULLI_LOSS = Figure("bernoulli_iwae_loss", BOTH_WAYS, "k=50 B=1024 D=784", 308, 207)
GAUSSIAN_LOSS = Figure("gaussian_iwae_loss", BOTH_WAYS, "k=50 B=1024 D=784", 503, 385)
BERNOULLI = Figure("bernoulli_log_prob", "forward", "k=50 B=2048 D=784", 191, 137)
GAUSSIAN = Figure("gaussian_log_prob", "forward", "k=50 B=2048 D=784", 330, 268)
STANDARD_GAUSSIAN = Figure("standard_gaussian_log_prob", "forward", "k=50 B=2048 D=784", 168, 114)
LOG_MEAN_EXP = Figure("log_mean_exp", "forward", "k=50 B=1048576", 190, 152)
LINEAR = Figure("linear_bernoulli_log_prob", "forward", "k=50 B=1024 H=200 D=784", 604, 546)
LINEAR_LOSS = Figure("linear_bernoulli_iwae_loss", BOTH_WAYS, "k=50 B=1024 H=200 D=784", 1810, 1697)

# Times with Python. Only these two works have been measured so; all ops share the code in Python whose time this is.
SMALL_LOSS = Figure("bernoulli_iwae_loss", BOTH_WAYS, "k=50 B=20 D=784", 628, 1344, "seconds with Python")
SMALL_SAMPLE = Figure("sample_gaussian", BOTH_WAYS, "k=50 B=1024 Z=50", 604, 1367, "seconds with Python")
SMALL_ELEMENTS = 50 * 20 * 784

SAMPLES = Rule(SMALL_SAMPLE, SMALL_SAMPLE, EVERY_SIZE)
"""Noise is served by one backend whatever the size of the call, since some samples of a large call that are drawn again
in a small one must be the same bits."""

RULES = {
    "bernoulli_log_prob": Rule(BERNOULLI, SMALL_LOSS, SMALL_ELEMENTS),
    "gaussian_log_prob": Rule(GAUSSIAN, SMALL_LOSS, SMALL_ELEMENTS),
    "standard_gaussian_log_prob": Rule(STANDARD_GAUSSIAN, SMALL_LOSS, SMALL_ELEMENTS),
    "log_mean_exp": Rule(LOG_MEAN_EXP, SMALL_LOSS, SMALL_ELEMENTS),
    "bernoulli_iwae_loss": Rule(BERNOULLI_LOSS, SMALL_LOSS, SMALL_ELEMENTS),
    "gaussian_iwae_loss": Rule(GAUSSIAN_LOSS, SMALL_LOSS, SMALL_ELEMENTS),
    "linear_bernoulli_log_prob": Rule(LINEAR, SMALL_LOSS, SMALL_ELEMENTS),
    "linear_bernoulli_iwae_loss": Rule(LINEAR_LOSS, SMALL_LOSS, SMALL_ELEMENTS),
    "sample_gaussian": SAMPLES,
    "standard_normal": SAMPLES,
}

DENSE_LAYER = "linear_activation"
"""An op without figures: its kernels have not run on a GPU, and torch's own operations are its rival. By counts of
launches and bytes (docs/performance.md) Triton's two launches per layer are predicted to be faster where launches cost
nothing, and slower where Python makes them: they serve the steps that a graph is made of, and other calls if asked."""

MOST_ELEMENTS = 2**24
"""The results of a dense layer up to which Triton serves it: the products of larger ones take much longer than their
launches, and cuBLAS is known to be good at them."""

_LAUNCHED_BY_A_GRAPH: ContextVar[bool] = ContextVar("launched_by_a_graph", default=False)


@contextmanager
def launched_by_a_graph() -> Iterator[None]:
    """Serve dense layers in this block as in a captured step: on CUDA tensors by Triton, where it is installed.

    :class:`iwae_fast.CapturedStep` and ``iwae-fast train`` enter it for every step, whether it is captured or not, so
    that both give the same bits. A loop of one's own gives these bits too if its forward passes are in such a block.
    """
    token = _LAUNCHED_BY_A_GRAPH.set(True)
    try:
        yield
    finally:
        _LAUNCHED_BY_A_GRAPH.reset(token)


def prefers_triton(shape: tuple[int, ...]) -> bool:
    """Return True if Triton, not torch, is to serve a dense layer with results of this shape. Torch's compiler, which
    fuses the activation itself, traces torch's operations."""
    if compiler.is_compiling() or not _LAUNCHED_BY_A_GRAPH.get():
        return False
    elements = number_of_elements(shape)
    return elements is not None and elements <= MOST_ELEMENTS


DENSE_LAYER_CHOICES = (
    ("calls of captured steps with at most 16,777,216 results", "triton"),
    ("other calls", "torch"),
)
WITHOUT_FIGURES = "predicted, not measured: 2 launches per layer instead of 4 to 6"

OTHERS = RULES["bernoulli_iwae_loss"]
"""The rule of ops that have not been measured, such as a new density and its loss."""

NO_LONGER_OFFERED = {("linear_bernoulli_log_prob", BOTH_WAYS, "triton")}
"""Works (op, mode, backend) whose committed figure is that of kernels that have been deleted: Triton's 11 ms backward
pass of a linear layer, in whose place are products of torch."""


def rule_of(op: str | None) -> Rule:
    """Return the rule of an op."""
    return RULES.get(op or "", OTHERS)


def number_of_elements(shape: tuple[int, ...]) -> int | None:
    """Return the product of the sizes; None while torch traces, since a comparison of symbolic sizes would tie what is
    compiled to one side of it, and compiled code is made for large calls."""
    if compiler.is_compiling():
        return None
    elements = 1
    for size in shape:
        if type(size) is not int:
            return None
        elements *= size
    return elements
