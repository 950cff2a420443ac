"""Diagnostics of importance weights: the Pareto k-hat of their tail."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks

FEWEST_IN_TAIL, FEWEST_SAMPLES = 5, 21

PRIOR_SHAPE, PRIOR_DRAWS = 0.5, 10
"""The prior of the fit: a shape, and the number of draws that it counts as (Vehtari et al. 2024, appendix G)."""
FIRST_POINTS = 30
"""The number of grid points of the fit, to which floor(sqrt(number of exceedances)) is added."""

TINY = 1e-100
"""The replacement of a grid slope that is exactly 0: there the profile is 0 / 0, and this value gives its limit."""


def tail_size(num_samples: int) -> int:
    """Return the number of weights in the tail of k weights: min(k / 5, 3 sqrt(k)), rounded up."""
    return math.ceil(min(0.2 * num_samples, 3.0 * math.sqrt(num_samples)))


def pareto_k(log_weights: Tensor) -> Tensor:
    """Estimate k-hat, the shape of the tail of importance weights (Vehtari, Simpson, Gelman, Yao & Gabry 2024).

    A generalized Pareto distribution is fitted to the largest weights. Below 0.5 the weights have finite variance and
    estimates computed with them converge quickly; up to about 0.7 they are still useful; above 1 the weights do not
    have a finite mean.

    The fit works on logarithms, so that no weight underflows and a tail over any number of decades has a finite k-hat.
    It uses the weights strictly above the cutoff, which is the ``tail_size(k) + 1``-th largest weight. Weights equal to
    the cutoff, which occur with discrete latents, are excluded, as in ArviZ. (The R package loo includes them, and
    underflows.)

    Args:
        log_weights: (k, ...), float.

    Returns:
        Shape (...), float64. If no fit is possible:

        - -inf where all weights of the tail are equal: no weight exceeds the cutoff.
        - inf where a weight is infinite, or where fewer than 5 weights exceed the cutoff and hold more than half of the
          tail's total: the estimate depends on them alone.
        - NaN where fewer than 5 weights exceed the cutoff and hold less than that, where the tail has fewer than 5
          weights (k < 21), where all weights are zero, and where any weight is NaN. NaN is neither good nor bad: count
          these separately, since a comparison with 0.7 does not detect them.
    """
    checks.floating(log_weights=log_weights)
    checks.dimension(log_weights, 0)
    k = len(log_weights)
    if tail_size(k) < FEWEST_IN_TAIL:
        return torch.full(log_weights.shape[1:], math.nan, dtype=torch.float64, device=log_weights.device)
    return pareto_k_of_largest(log_weights.double().topk(tail_size(k) + 1, dim=0).values)


def pareto_k_of_largest(largest: Tensor) -> Tensor:
    """Estimate k-hat from the ``tail_size(k) + 1`` largest log-weights, in descending order; the last is the cutoff."""
    largest = largest.double()
    cutoff, tail = largest[-1], largest[:-1]
    exceeds = tail > cutoff
    count = exceeds.sum(0)
    # log(w - u) relative to the largest weight, where u is the weight at the cutoff, which may be zero.
    log_exceedances = tail - largest[0] + torch.log(-torch.expm1(cutoff - tail))
    log_exceedances = torch.where(exceeds, log_exceedances, -math.inf)
    fits = (count >= FEWEST_IN_TAIL) & largest[0].isfinite()
    shape = _generalized_pareto_shape(
        torch.where(fits, log_exceedances, 0.0), torch.where(fits, count, len(tail)).double()
    )
    above = torch.where(exceeds, torch.exp(tail - largest[0]), 0.0).sum(0)
    rests_on_few = above > (len(tail) - count) * torch.exp(cutoff - largest[0])
    without_fit = torch.where(rests_on_few, math.inf, math.nan).masked_fill(count == 0, -math.inf)
    result = torch.where(fits, shape, without_fit).masked_fill(largest[0] == math.inf, math.inf)
    return result.masked_fill((largest[0] == -math.inf) | largest.isnan().any(0), math.nan)


def _generalized_pareto_shape(log_exceedances: Tensor, count: Tensor) -> Tensor:
    """Fit the shape of a generalized Pareto distribution by the empirical Bayes estimate of Zhang & Stephens (2009): a
    mean over a grid of b = -shape / scale, weighted by the profile likelihood.

    ``log_exceedances`` are the logarithms of the exceedances x, (n, ...), in descending order; the first ``count``
    entries of each column are used, and the others are -inf. The grid is b = 1 / max x - c / (3 q), with q the first
    quartile of x and c > 0. The shape does not depend on the scale of x; in units of q, all numbers of the grid are
    moderate for any spread of the exceedances.
    """
    quartile = (count - torch.floor(count / 4.0 + 0.5)).long()
    log_ratio = log_exceedances - log_exceedances.gather(0, quartile.unsqueeze(0))
    points = FIRST_POINTS + count.sqrt().floor()
    zero = log_ratio.new_zeros(())

    def shape_at(a: Tensor) -> Tensor:
        """Compute the maximum-likelihood shape given b = -a / q, which is the mean of log(1 + a x / q)."""
        rising = torch.logaddexp(log_ratio + torch.log(a.clamp(min=TINY)), zero)
        falling = torch.log1p(a * torch.exp(torch.where(a < 0, log_ratio, -math.inf)))
        return torch.where(a < 0, falling, rising).sum(0) / count

    slopes, log_profile = [], []
    # One grid point at a time: the whole grid at once would need more memory than the weights.
    for index in range(1, FIRST_POINTS + math.isqrt(len(log_exceedances)) + 1):
        c = torch.sqrt(points / (index - 0.5)) - 1.0
        a = c / 3.0 - torch.exp(-log_ratio[0])
        a = torch.where(a == 0, TINY, a)
        shape = shape_at(a)
        profile = count * (torch.log(a / shape) - shape - 1.0)
        slopes.append(a)
        log_profile.append(torch.where(index <= points, profile, -math.inf))
    mean_slope = (torch.stack(slopes) * torch.softmax(torch.stack(log_profile), 0)).sum(0)
    return (count * shape_at(mean_slope) + PRIOR_DRAWS * PRIOR_SHAPE) / (count + PRIOR_DRAWS)
