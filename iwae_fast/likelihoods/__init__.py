"""Observation models p(x | z): the meaning of a decoder's output, and the density of observations given it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .. import checks
from .base import Likelihood
from .bernoulli import Bernoulli, LinearLayer
from .beta import Beta
from .categorical import Categorical
from .columns import Column, infer_columns, read_schema
from .continuous_bernoulli import ContinuousBernoulli
from .counts import NegativeBinomial, ZeroInflatedNegativeBinomial
from .discretized_logistic import DiscretizedLogistic
from .distribution import FromDistribution
from .gaussian import Gaussian
from .mixed import Mixed
from .poisson import Poisson, ZeroInflatedPoisson
from .student_t import StudentT

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Beta",
    "Categorical",
    "Column",
    "ContinuousBernoulli",
    "DiscretizedLogistic",
    "FromDistribution",
    "Gaussian",
    "Likelihood",
    "LinearLayer",
    "Mixed",
    "NegativeBinomial",
    "Poisson",
    "StudentT",
    "ZeroInflatedNegativeBinomial",
    "ZeroInflatedPoisson",
    "as_likelihood",
    "infer_columns",
    "read_schema",
]

LIKELIHOODS: dict[str, Callable[[], Likelihood]] = {
    "bernoulli": Bernoulli,
    "continuous-bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "gaussian-fixed": partial(Gaussian, 1.0),
    "gaussian-learned": partial(Gaussian, "learned"),
    "negative-binomial": NegativeBinomial,
    "zero-inflated-negative-binomial": ZeroInflatedNegativeBinomial,
    "categorical": Categorical,
    "poisson": Poisson,
    "zero-inflated-poisson": ZeroInflatedPoisson,
    "student-t": StudentT,
    "beta": Beta,
    "discretized-logistic": DiscretizedLogistic,
}
"""A constructor without arguments per name, for the default settings."""


def as_likelihood(likelihood: str | Likelihood) -> Likelihood:
    """Return the likelihood of a name; return a likelihood unchanged.

    Raises ValueError for an unknown name and TypeError for another type.
    """
    if isinstance(likelihood, Likelihood):
        return likelihood
    if not isinstance(likelihood, str):
        raise TypeError(
            f"likelihood must be a name or an iwae_fast.likelihoods.Likelihood, got {type(likelihood).__name__}"
        )
    if likelihood not in LIKELIHOODS:
        near = checks.nearest(likelihood, LIKELIHOODS)
        raise ValueError(f"likelihood must be one of {', '.join(LIKELIHOODS)}, got {likelihood!r}{near and ': '}{near}")
    return LIKELIHOODS[likelihood]()
