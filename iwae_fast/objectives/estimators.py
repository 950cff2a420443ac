"""Gradient estimators: what the gradient of each sample is scaled by, and how it goes through log q.

A decoder's direction of ascent is sum_i (decoder scale)_i dlog p(x, z_i) / dtheta. An encoder's is
sum_i (encoder scale)_i times the gradient of log w_i in its parameters: of the whole of it, of its path alone
(dlog w_i / dz_i) (dz_i / dphi), the parameters of log q held fixed, or of -log q(z_i) at fixed z_i alone (minus the
score). The scales follow from the log-weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..bounds import Bound, Coefficients
from ..bounds.leave_one_out import log_rest, log_sum_exp
from ..models.base import LatentVariableModel, LogQGradient


class Scales(NamedTuple):
    """Each (k, ...)."""

    decoder: Tensor
    encoder: Tensor


class Weights(NamedTuple):
    """What scales are made of."""

    log_weights: Tensor
    """(k, ...)."""
    decoder: Coefficients
    """Of what the decoder ascends ..."""
    encoder: Coefficients
    """... and the encoder, at these log-weights."""
    kl_weight: float
    """What log p(z) - log q(z | x) was weighted by inside them."""


class Estimator(NamedTuple):
    scales: Callable[[Weights], Scales]
    log_q_gradient: LogQGradient
    only_iwae: bool = False
    """Whether it is made of IWAE's weights, and suits no other bound and no other weight of the divergence."""
    reparameterize_prior: bool = False
    """Whether the parameters of the prior get a reparameterised gradient too."""
    fewest_samples: int = 1


def of_the_bound(weights: Weights) -> Scales:
    """The bound's own: with the whole of log q it is the gradient of the bound (Kingma & Welling 2014; Burda, Grosse &
    Salakhutdinov 2016); with the path alone it sticks the landing, without the score, which is zero on average only
    where the scales do not depend on the samples: for the ELBO or k = 1 (Roeder et al. 2017)."""
    return Scales(weights.decoder.g, weights.encoder.g)


def dreg(weights: Weights) -> Scales:
    """Doubly reparameterised: the score is reparameterised once more, unbiased (Tucker et al. 2019)."""
    return Scales(weights.decoder.g, weights.encoder.g - weights.kl_weight * weights.encoder.D)


def aisle_chi2(weights: Weights) -> Scales:
    """2k times DReG's, the scale of its derivation, which matters under SGD (Finke & Thiery 2019)."""
    w = weights.decoder.g
    return Scales(w, 2 * len(w) * w.square())


def rws(weights: Weights) -> Scales:
    """Reweighted wake-sleep, wake phase: raises log q where samples are good (Bornschein & Bengio 2015)."""
    return Scales(weights.decoder.g, -weights.decoder.g)


def rws_dreg(weights: Weights) -> Scales:
    """The same, reparameterize_prior reparameterised (Tucker et al. 2019)."""
    w = weights.decoder.g
    return Scales(w, w - w.square())


def vimco(weights: Weights) -> Scales:
    """The score with a baseline b_i for each sample from the others, for latents without a path: L - b_i - w~_i, with
    b_i = log[(sum_{j != i} w_j + exp(mean_{j != i} log w_j)) / k] (Mnih & Rezende 2016)."""
    log_weights, w, k = weights.log_weights, weights.decoder.g, len(weights.log_weights)
    zero = log_weights == -math.inf
    finite = torch.where(zero, 0.0, log_weights)
    mean_of_others = (finite.sum(0) - finite) / (k - 1)
    mean_of_others = torch.where(zero.sum(0) > zero.long(), -math.inf, mean_of_others)
    sum_of_others = log_rest(log_weights) + log_sum_exp(log_weights)
    baseline = torch.logaddexp(sum_of_others, mean_of_others) - math.log(k)
    signal = weights.decoder.value - baseline
    # Where all the others weigh nothing there is no baseline, and no signal.
    return Scales(w, w - torch.where(baseline > -math.inf, signal, 0.0))


ESTIMATORS = {
    "reparameterized": Estimator(of_the_bound, LogQGradient.FULL),
    "stl": Estimator(of_the_bound, LogQGradient.PATHWISE),
    "dreg": Estimator(dreg, LogQGradient.PATHWISE),
    "gdreg": Estimator(dreg, LogQGradient.PATHWISE, reparameterize_prior=True),  # Bauer & Mnih 2021
    "aisle-kl": Estimator(of_the_bound, LogQGradient.PATHWISE, only_iwae=True),  # STL's direction (Finke & Thiery 2019)
    "aisle-chi2": Estimator(aisle_chi2, LogQGradient.PATHWISE, only_iwae=True),
    "rws": Estimator(rws, LogQGradient.SCORE, only_iwae=True),
    "rws-dreg": Estimator(rws_dreg, LogQGradient.PATHWISE, only_iwae=True),
    "vimco": Estimator(vimco, LogQGradient.SCORE, only_iwae=True, fewest_samples=2),
}


def value_and_scales(
    estimator: Estimator, bound: Bound, log_weights: Tensor, kl_weight: float
) -> tuple[Tensor, Scales]:
    """The bound, and what the estimator makes of its coefficients."""
    own = bound.coefficients(log_weights)
    decoder, encoder = (
        own if other is bound else other.coefficients(log_weights) for other in (bound.for_decoder, bound.for_encoder)
    )
    return own.value, estimator.scales(Weights(log_weights, decoder, encoder, kl_weight))


def check(name: str, bound: Bound, num_samples: int, weighs_divergence: bool) -> Estimator:
    """The estimator of this name; ValueError where there is none, or where it does not suit the rest."""
    if name not in ESTIMATORS:
        near = checks.nearest(str(name), ESTIMATORS)
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {name!r}{near and ': '}{near}")
    estimator = ESTIMATORS[name]
    if estimator.only_iwae and not bound.is_log_mean_exp:
        raise ValueError(f"estimator {name!r} is made of IWAE's weights: it does not suit {bound!r}")
    if estimator.only_iwae and weighs_divergence:
        raise ValueError(f"estimator {name!r} is made of IWAE's weights: it does not go with a kl_weight")
    if estimator.reparameterize_prior and not _one_for_both(bound):
        raise ValueError(f"estimator {name!r} needs a bound that both networks ascend: it does not suit {bound!r}")
    if num_samples < estimator.fewest_samples:
        raise ValueError(f"estimator {name!r} needs k >= {estimator.fewest_samples} samples, got k = {num_samples}")
    return estimator


def check_model(name: str, model: LatentVariableModel) -> None:
    """ValueError where the estimator does not suit the model."""
    estimator = ESTIMATORS[name]
    if estimator.log_q_gradient is not LogQGradient.SCORE and not model.reparameterized:
        without_path = ", ".join(key for key, other in ESTIMATORS.items() if other.log_q_gradient is LogQGradient.SCORE)
        raise ValueError(
            f"estimator {name!r} differentiates through z, which {type(model).__name__} does not allow: use one of "
            f"{without_path}"
        )
    if estimator.reparameterize_prior and not model.has_conditional_priors:
        raise ValueError(
            f"estimator {name!r} is for a prior with parameters between layers, which the model has not: use 'dreg'"
        )
    if estimator.log_q_gradient is LogQGradient.SCORE and model.random_weights:
        raise ValueError(f"estimator {name!r} has no gradient for the distribution of random weights")


def _one_for_both(bound: Bound) -> bool:
    return bound.for_decoder is bound and bound.for_encoder is bound
