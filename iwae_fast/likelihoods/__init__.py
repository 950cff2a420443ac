"""Observation models p(x | z): what a decoder's output means, and how likely an observation is under it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from .. import checks
from .base import Likelihood
from .bernoulli import Bernoulli, LinearLayer
from .categorical import Categorical
from .continuous_bernoulli import ContinuousBernoulli
from .counts import NegativeBinomial, ZeroInflatedNegativeBinomial
from .distribution import FromDistribution
from .gaussian import Gaussian

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Categorical",
    "ContinuousBernoulli",
    "FromDistribution",
    "Gaussian",
    "Likelihood",
    "LinearLayer",
    "NegativeBinomial",
    "ZeroInflatedNegativeBinomial",
    "as_likelihood",
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
}
"""By name, with what each takes by default."""


def as_likelihood(likelihood: str | Likelihood) -> Likelihood:
    """A likelihood, by its name or as it is.

    ValueError for a name that is none, TypeError for what is neither.
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
