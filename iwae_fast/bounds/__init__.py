"""Bounds: functions of the k log-weights of an observation, with their values and coefficients.

A bound F takes ``log_weights`` of shape (k, ...) and returns one value per observation, differentiable by autograd.
Its coefficients are g_i = dF/dlog_w_i and D_i = d2F/dlog_w_i2, from which gradient estimators are built.
"""

from .base import Bound, Coefficients
from .groups import CIWAE, MIWAE, PIWAE
from .jackknife import JVI
from .power import CUBO, ELBO, IWAE, VRIWAE
from .roulette import SUMO
from .thermodynamic import TVO

__all__ = ["CIWAE", "CUBO", "ELBO", "IWAE", "JVI", "MIWAE", "PIWAE", "SUMO", "TVO", "VRIWAE", "Bound", "Coefficients"]
