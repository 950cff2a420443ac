"""Objectives: the loss and its gradient from the log-weights of a model. They depend on models, not on training."""

from .objective import Objective
from .record import Diagnostics

__all__ = ["Diagnostics", "Objective"]
