"""Autograd Functions around the native ops.

``name`` and ``backend`` say which op runs where; neither they nor masks take a gradient.
"""

from ..function import Once, apply
from .densities import Density, LogMeanExp, SampleGaussian
from .linear import LinearBernoulli, LinearIWAELoss, LinearTanh
from .losses import IWAELoss, IWAELossAtOnce

__all__ = [
    "Density",
    "IWAELoss",
    "IWAELossAtOnce",
    "LinearBernoulli",
    "LinearIWAELoss",
    "LinearTanh",
    "LogMeanExp",
    "Once",
    "SampleGaussian",
    "apply",
]
