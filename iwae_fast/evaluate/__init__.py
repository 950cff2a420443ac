"""Evaluation: functions that examine a trained model without changing it."""

from .likelihood import LogLikelihood, log_likelihood

__all__ = ["LogLikelihood", "log_likelihood"]
