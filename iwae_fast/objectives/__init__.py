"""Objectives: from the log-weights of a model to the loss and its gradient. They know models, and no training loop."""

from .objective import Objective
from .record import Diagnostics

__all__ = ["Diagnostics", "Objective"]
