"""Scales of reproductions: stages, numbers of samples, trials, and the evaluation."""

from __future__ import annotations

from dataclasses import dataclass

from ..protocols import STAGES


@dataclass(frozen=True)
class Scale:
    """The amount of training and evaluation for a table."""

    stages: int
    """Stages of Burda, Grosse & Salakhutdinov's (2016) protocol, 1 + 3 + 9 + ... passes."""
    epochs: int
    """Epochs of tables without stages (IWAER)."""
    trials: int
    """Trials per entry, for tables that have several (IWAER)."""
    ks: tuple[int, ...] = (1, 5, 50)
    budget: int | None = None
    """Samples of IWAE in the backward pass; None for all."""
    k: int = 5000
    """Samples per observation in the evaluation, unless the table has a smaller number."""
    observations: int | None = None
    """Number of test images in the evaluation; None for all."""
    further: int = 1000
    """Number of training images in the evaluation, and of test images without inactive units."""


SCALES = {
    "smoke": Scale(stages=1, epochs=1, trials=1, ks=(1, 5), k=50, observations=100, further=50),
    "small": Scale(stages=3, epochs=20, trials=1, budget=8, observations=2000, further=500),
    "medium": Scale(stages=5, epochs=100, trials=3, budget=8),
    "full": Scale(stages=STAGES, epochs=500, trials=5),
}
"""Scales by their names on the command line: minutes, hours and a day on two cores; full is that of the papers."""
