"""Evaluation: functions that look at a trained model and never change it."""

from .likelihood import LogLikelihood, log_likelihood

__all__ = ["LogLikelihood", "log_likelihood"]
