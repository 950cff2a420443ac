"""The experiment trackers by their names on the command line."""

from __future__ import annotations

from collections.abc import Iterable

from ... import checks
from .base import Tracker
from .ml_flow import MLflow
from .tensor_board import TensorBoard
from .weights_and_biases import WeightsAndBiases

TRACKERS: dict[str, type[Tracker]] = {tracker.name: tracker for tracker in (TensorBoard, WeightsAndBiases, MLflow)}

NONE = "none"
"""Name of no tracker, with which a resumed run stops logging."""


def tracker_names(given: Iterable[str]) -> tuple[str, ...]:
    """Return the trackers that are named, each by itself or several separated by commas; raises ValueError for an
    unknown one, or for one whose library is not installed."""
    names = [name.strip() for text in given for name in text.split(",")]
    if NONE in names and len(set(names)) > 1:
        raise ValueError(f"--log none excludes other trackers, got {', '.join(names)}")
    for name in names:
        checks.one_of("tracker", name, (*TRACKERS, NONE))
        if name != NONE:
            TRACKERS[name].check_installed()
    return tuple(dict.fromkeys(name for name in names if name != NONE))
