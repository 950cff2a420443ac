"""Importance-weighted bounds and estimators for Pyro's models and guides, :class:`IWAE_ELBO`, and their likelihood,
:class:`FromPyro`.

``elbo.py`` has the objective, ``evaluation.py`` the adapter for an evaluation, ``plates.py`` the layout of sites along
particles and data, ``log_probs.py`` their log-densities, and ``guides.py`` the treatment of log q that the estimators
need.
"""

from __future__ import annotations

try:
    import pyro  # noqa: F401
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        f"iwae_fast.contrib.pyro needs {_error.name}, which is not installed: pip install 'iwae_fast[pyro]'",
        name=_error.name,
    ) from _error

from .elbo import IWAE_ELBO
from .evaluation import FromPyro

__all__ = ["IWAE_ELBO", "FromPyro"]
