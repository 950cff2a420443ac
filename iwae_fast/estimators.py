"""Gradient estimators: what the gradient of each sample is scaled by.

With path_i = (dlog w_i / dz_i) (dz_i / dphi), the parameters of log q held fixed, and score_i = d log q(z_i) / dphi at
fixed z_i, an encoder's direction of ascent is sum_i (path scale)_i path_i + (score scale)_i score_i, and a decoder's is
sum_i (decoder scale)_i dlog p(x, z_i) / dtheta. The scales follow from the log-weights alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .bounds import IWAE, Bound


class Scales(NamedTuple):
    """Each (k, ...); a score of None is 0."""

    decoder: Tensor
    path: Tensor
    score: Tensor | None = None


class Estimator(NamedTuple):
    scales: Callable[[Bound, Tensor], Scales]
    """Of a bound at its log-weights (k, ...)."""
    only_iwae: bool = False
    """Whether it is made of IWAE's weights, and suits no other bound."""


def reparameterized(bound: Bound, log_weights: Tensor) -> Scales:
    """The gradient of the bound itself (Kingma & Welling 2014; Burda, Grosse & Salakhutdinov 2016)."""
    g = _for_encoder(bound).coefficients(log_weights).g
    return Scales(bound.coefficients(log_weights).g, g, -g)


def stl(bound: Bound, log_weights: Tensor) -> Scales:
    """Sticking the landing: without the score, which is zero on average for k = 1 alone (Roeder et al. 2017)."""
    return Scales(bound.coefficients(log_weights).g, _for_encoder(bound).coefficients(log_weights).g)


def dreg(bound: Bound, log_weights: Tensor) -> Scales:
    """Doubly reparameterised: the score is reparameterised once more, unbiased (Tucker et al. 2019)."""
    encoder = _for_encoder(bound).coefficients(log_weights)
    return Scales(bound.coefficients(log_weights).g, encoder.g - encoder.D)


def aisle_chi2(bound: Bound, log_weights: Tensor) -> Scales:
    """2k times DReG's, the scale of its derivation, which matters under SGD (Finke & Thiery 2019)."""
    weights = bound.coefficients(log_weights).g
    return Scales(weights, 2 * len(log_weights) * weights.square())


def rws(bound: Bound, log_weights: Tensor) -> Scales:
    """Reweighted wake-sleep, wake phase: raises log q where samples are good (Bornschein & Bengio 2015)."""
    weights = bound.coefficients(log_weights).g
    return Scales(weights, torch.zeros_like(weights), weights)


def rws_dreg(bound: Bound, log_weights: Tensor) -> Scales:
    """The same, doubly reparameterised (Tucker et al. 2019)."""
    weights = bound.coefficients(log_weights).g
    return Scales(weights, weights - weights.square())


ESTIMATORS = {
    "reparameterized": Estimator(reparameterized),
    "stl": Estimator(stl),
    "dreg": Estimator(dreg),
    "aisle-kl": Estimator(stl, only_iwae=True),  # the same direction (Finke & Thiery 2019)
    "aisle-chi2": Estimator(aisle_chi2, only_iwae=True),
    "rws": Estimator(rws, only_iwae=True),
    "rws-dreg": Estimator(rws_dreg, only_iwae=True),
}


def check(name: str, bound: Bound) -> Estimator:
    """The estimator of this name; ValueError where there is none, or where it does not suit the bound."""
    if name not in ESTIMATORS:
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {name!r}")
    if ESTIMATORS[name].only_iwae and type(bound) is not IWAE:
        raise ValueError(f"estimator {name!r} is made of IWAE's weights: it does not suit {bound!r}")
    if bound.for_encoder is None:
        raise ValueError(f"{bound!r} is an upper bound: an encoder must not ascend it, nor a decoder")
    return ESTIMATORS[name]


def _for_encoder(bound: Bound) -> Bound:
    encoder_bound = bound.for_encoder
    if encoder_bound is None:
        raise ValueError(f"{bound!r} trains no encoder by ascent")
    return encoder_bound
