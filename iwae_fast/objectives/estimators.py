"""Gradient estimators: the scale of each sample's gradient, and the dependencies of log q that are differentiated.

The decoder ascends sum_i (decoder scale)_i dlog p(x, z_i) / dtheta. The encoder ascends sum_i (encoder scale)_i times
one of three gradients with respect to its parameters: the full gradient of log w_i; the pathwise gradient
(dlog w_i / dz_i) (dz_i / dphi), with the parameters of log q held fixed; or that of -log q(z_i) at fixed z_i (minus the
score). The scales are functions of the log-weights.
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
from ..models.base import LatentVariableModel
from ..models.terms import LogQGradient
from ..reference import ScaleFactors


class Scales(NamedTuple):
    """Scales of the samples' gradients in decoder and encoder, each (k, ...)."""

    decoder: Tensor
    encoder: Tensor


class Weights(NamedTuple):
    """Inputs of an estimator."""

    log_weights: Tensor
    """(k, ...)."""
    decoder: Coefficients
    """Coefficients at these log-weights of the bound that the decoder ascends."""
    encoder: Coefficients
    """Coefficients at these log-weights of the bound that the encoder ascends."""
    kl_weight: float
    """Factor of log p(z) - log q(z | x) in the log-weights."""


class Polynomial(NamedTuple):
    """The encoder's scale linear v + quadratic v^2 of a sample of normalized weight v, whose decoder's scale is v."""

    linear: float
    quadratic: float


class Estimator(NamedTuple):
    """A gradient estimator: its scales, its gradient of log q, and its restrictions."""

    scales: Callable[[Weights], Scales]
    log_q_gradient: LogQGradient
    only_iwae: bool = False
    """True if the estimator is valid only for IWAE with kl_weight = 1."""
    reparameterize_prior: bool = False
    """True if the parameters of conditional priors get a reparameterized gradient too."""
    fewest_samples: int = 1
    polynomial: Callable[[float, float, int], Polynomial] | None = None
    """``scales`` for a bound log[mean of w^p] / p, from p, ``kl_weight`` and k, so that kernels can compute them; None
    if they are not such a polynomial."""


def bound_scales(weights: Weights) -> Scales:
    """Return the coefficients of the bound's own gradient.

    With the full gradient of log q this is the gradient of the bound (Kingma & Welling 2014; Burda, Grosse &
    Salakhutdinov 2016). With the pathwise gradient it is the sticking-the-landing estimator, which omits the score; the
    score is zero on average only if the scales do not depend on the samples: for the ELBO or k = 1 (Roeder et al.
    2017).
    """
    return Scales(weights.decoder.g, weights.encoder.g)


def dreg(weights: Weights) -> Scales:
    """Return doubly reparameterized scales: the score is reparameterized once more, unbiased (Tucker et al. 2019)."""
    return Scales(weights.decoder.g, weights.encoder.g - weights.kl_weight * weights.encoder.D)


def aisle_chi2(weights: Weights) -> Scales:
    """Return 2k times the encoder scales of DReG, the factor of its derivation, which matters with SGD (Finke & Thiery
    2019)."""
    w = weights.decoder.g
    return Scales(w, 2 * len(w) * w.square())


def rws(weights: Weights) -> Scales:
    """Return the scales of reweighted wake-sleep, wake phase, which increases log q at samples of large weight
    (Bornschein & Bengio 2015)."""
    return Scales(weights.decoder.g, -weights.decoder.g)


def rws_dreg(weights: Weights) -> Scales:
    """Return the scales of the wake phase of reweighted wake-sleep, doubly reparameterized (Tucker et al. 2019)."""
    w = weights.decoder.g
    return Scales(w, w - w.square())


def vimco(weights: Weights) -> Scales:
    """Return the scales of the score with a baseline b_i per sample, computed from the others: L - b_i - w~_i, with
    b_i = log[(sum_{j != i} w_j + exp(mean_{j != i} log w_j)) / k] (Mnih & Rezende 2016).

    Latents need not be reparameterized.
    """
    log_weights, w, k = weights.log_weights, weights.decoder.g, len(weights.log_weights)
    zero = log_weights == -math.inf
    finite = torch.where(zero, 0.0, log_weights)
    mean_of_others = (finite.sum(0) - finite) / (k - 1)
    mean_of_others = torch.where(zero.sum(0) > zero.long(), -math.inf, mean_of_others)
    sum_of_others = log_rest(log_weights) + log_sum_exp(log_weights)
    baseline = torch.logaddexp(sum_of_others, mean_of_others) - math.log(k)
    signal = weights.decoder.value - baseline
    # If all other weights are 0 the baseline is -inf; the signal is then set to 0.
    return Scales(w, w - torch.where(baseline > -math.inf, signal, 0.0))


def _own(power: float, kl_weight: float, k: int) -> Polynomial:  # noqa: ARG001
    return Polynomial(1.0, 0.0)


def _dreg(power: float, kl_weight: float, k: int) -> Polynomial:  # noqa: ARG001
    return Polynomial(1.0 - kl_weight * power, kl_weight * power)  # v - kl_weight D, with D = p v (1 - v)


ESTIMATORS = {
    "reparameterized": Estimator(bound_scales, LogQGradient.FULL, polynomial=_own),
    "stl": Estimator(bound_scales, LogQGradient.PATHWISE, polynomial=_own),
    "dreg": Estimator(dreg, LogQGradient.PATHWISE, polynomial=_dreg),
    # Bauer & Mnih 2021
    "gdreg": Estimator(dreg, LogQGradient.PATHWISE, reparameterize_prior=True, polynomial=_dreg),
    # STL's direction (Finke & Thiery 2019)
    "aisle-kl": Estimator(bound_scales, LogQGradient.PATHWISE, only_iwae=True, polynomial=_own),
    "aisle-chi2": Estimator(
        aisle_chi2, LogQGradient.PATHWISE, only_iwae=True, polynomial=lambda _, __, k: Polynomial(0.0, 2.0 * k)
    ),
    "rws": Estimator(rws, LogQGradient.SCORE, only_iwae=True, polynomial=lambda *_: Polynomial(-1.0, 0.0)),
    "rws-dreg": Estimator(rws_dreg, LogQGradient.PATHWISE, only_iwae=True, polynomial=lambda *_: Polynomial(1.0, -1.0)),
    "vimco": Estimator(vimco, LogQGradient.SCORE, only_iwae=True, fewest_samples=2),
}


def value_and_scales(
    estimator: Estimator, bound: Bound, log_weights: Tensor, kl_weight: float
) -> tuple[Tensor, Scales]:
    """Return the bound and the scales of the estimator at these log-weights."""
    own = bound.coefficients(log_weights)
    decoder, encoder = (
        own if other is bound else other.coefficients(log_weights) for other in (bound.for_decoder, bound.for_encoder)
    )
    return own.value, estimator.scales(Weights(log_weights, decoder, encoder, kl_weight))


def factors_of(
    estimator: Estimator, bound: Bound, num_samples: int, kl_weight: float, rounding: float
) -> ScaleFactors | None:
    """Return the numbers from which a kernel computes the bound, and the scales and their ratio as
    :func:`value_and_scales` and :func:`iwae_fast.objectives.routing.with_ratio` do; None if they have another form."""
    form = bound.power_mean
    if form is None or estimator.polynomial is None or not _one_for_both(bound):
        return None
    return ScaleFactors(
        form.power, form.groups, *estimator.polynomial(form.power, kl_weight, num_samples), rounding=rounding
    )


def check(name: str, bound: Bound, num_samples: int, weighs_divergence: bool) -> Estimator:
    """Return the estimator of this name; raise ValueError if it is unknown, or invalid with the other arguments."""
    if name not in ESTIMATORS:
        near = checks.nearest(str(name), ESTIMATORS)
        raise ValueError(f"estimator must be one of {', '.join(ESTIMATORS)}, got {name!r}{near and ': '}{near}")
    estimator = ESTIMATORS[name]
    if estimator.only_iwae and not bound.is_log_mean_exp:
        raise ValueError(f"estimator {name!r} is valid only for IWAE, got {bound!r}")
    if estimator.only_iwae and weighs_divergence:
        raise ValueError(f"estimator {name!r} is valid only for kl_weight = 1")
    if estimator.reparameterize_prior and not _one_for_both(bound):
        raise ValueError(f"estimator {name!r} needs a bound that both networks ascend, got {bound!r}")
    if num_samples < estimator.fewest_samples:
        raise ValueError(f"estimator {name!r} needs k >= {estimator.fewest_samples} samples, got k = {num_samples}")
    return estimator


def check_model(name: str, model: LatentVariableModel) -> None:
    """Raise ValueError if the estimator is invalid for the model."""
    estimator = ESTIMATORS[name]
    if estimator.log_q_gradient is not LogQGradient.SCORE and not model.reparameterized:
        without_path = ", ".join(key for key, other in ESTIMATORS.items() if other.log_q_gradient is LogQGradient.SCORE)
        raise ValueError(
            f"estimator {name!r} differentiates through z, which {type(model).__name__} does not allow: use one of "
            f"{without_path}"
        )
    if estimator.reparameterize_prior and not model.has_conditional_priors:
        raise ValueError(
            f"estimator {name!r} requires learned conditional priors between layers; this model has none: use 'dreg'"
        )
    if estimator.log_q_gradient is LogQGradient.SCORE and model.random_weights:
        raise ValueError(f"estimator {name!r} does not have a gradient for the distribution of random weights")


def _one_for_both(bound: Bound) -> bool:
    return bound.for_decoder is bound and bound.for_encoder is bound
