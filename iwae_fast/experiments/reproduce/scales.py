"""How much of a table is run: stages, numbers of samples, trials, and how it is evaluated."""

from __future__ import annotations

from dataclasses import dataclass

from ..protocols import STAGES


@dataclass(frozen=True)
class Scale:
    """A part of a table that one can afford."""

    stages: int
    """Of Burda, Grosse & Salakhutdinov's (2016) protocol, 1 + 3 + 9 + ... passes."""
    epochs: int
    """Where there are no stages (IWAER)."""
    trials: int
    """Where a table is of several (IWAER)."""
    ks: tuple[int, ...] = (1, 5, 50)
    budget: int | None = None
    """Samples of IWAE that run backward; None for all."""
    k: int = 5000
    """Samples of the likelihoods, where the table does not say otherwise."""
    observations: int | None = None
    """Test images; None for all."""
    further: int = 1000
    """Training images that are evaluated, and test images without inactive units."""


SCALES = {
    "smoke": Scale(stages=1, epochs=1, trials=1, ks=(1, 5), k=50, observations=100, further=50),
    "small": Scale(stages=3, epochs=20, trials=1, budget=8, observations=2000, further=500),
    "medium": Scale(stages=5, epochs=100, trials=3, budget=8),
    "full": Scale(stages=STAGES, epochs=500, trials=5),
}
"""By the names of the command line: minutes, hours, a day on two cores; full is the papers' own."""
