"""Evaluation: functions that examine a trained model without changing it."""

from .distributions import FromDistributions
from .likelihood import log_likelihood
from .sources import FromDraws
from .streaming import LogLikelihood, StreamingWeights

__all__ = ["FromDistributions", "FromDraws", "LogLikelihood", "StreamingWeights", "log_likelihood"]
