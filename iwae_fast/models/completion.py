"""Weighted samples of a model given partly observed observations, from which missing features are imputed."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

IMPUTATION_STREAM = 2**31 + 2
"""Stream of the noise of imputed features inside log-weights; the streams of latent layers count from 0."""


class Completions(NamedTuple):
    """Weighted samples of a model, given the observed features of B observations."""

    log_weights: Tensor
    """log p(x_observed, z_i) - log q(z_i | x_observed), (k, B) in nats."""
    particles: Tensor
    """The samples from which :meth:`iwae_fast.models.LatentVariableModel.completed` draws x, (k, B, P): the latents by
    default."""
    expectations: Tensor
    """The quantities of :meth:`iwae_fast.likelihoods.Likelihood.expectations` for each sample, (k, B, S)."""
