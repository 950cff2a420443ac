"""Evaluation: functions that examine a trained model without changing it."""

from .distributions import FromDistributions
from .expression import DifferentialExpression, differential_expression
from .likelihood import log_likelihood
from .sources import FromDraws
from .streaming import LogLikelihood, StreamingWeights

__all__ = [
    "DifferentialExpression",
    "FromDistributions",
    "FromDraws",
    "LogLikelihood",
    "StreamingWeights",
    "differential_expression",
    "log_likelihood",
]
