"""Objectives: from the log-weights of a model to the loss and its gradient. They know models, and no training loop."""

from .objective import Diagnostics, Objective

__all__ = ["Diagnostics", "Objective"]
