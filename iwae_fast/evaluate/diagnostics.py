"""Whether importance weights can be trusted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .. import checks

FEWEST_IN_TAIL, FEWEST_SAMPLES = 5, 21

PRIOR_SHAPE, PRIOR_DRAWS = 0.5, 10
"""The fit is drawn towards this shape as if by so many draws (Vehtari et al. 2024, appendix G)."""
FIRST_POINTS = 30
"""The fit's grid has so many points and one more per unit of the square root of the number of exceedances."""

TINY = 1e-100
"""A slope of the grid that is exactly 0 is moved by so much: there 0 / 0 has a limit, which this reaches."""


def tail_size(num_samples: int) -> int:
    """How many of k weights are the tail: min(k / 5, 3 sqrt(k))."""
    return math.ceil(min(0.2 * num_samples, 3.0 * math.sqrt(num_samples)))


def pareto_k(log_weights: Tensor) -> Tensor:
    """Estimate k-hat, the shape of the tail of importance weights (Vehtari, Simpson, Gelman, Yao & Gabry 2024).

    A generalized Pareto distribution is fitted to the largest weights. Below 0.5 the weights have a variance and
    estimates by them converge quickly; up to about 0.7 they are still useful; above 1 the weights have no mean.

    The fit is computed from logarithms, so a tail over any number of decades has a finite k-hat: no weight underflows
    beside a larger one. It is fitted to the weights that are strictly above the cutoff, the ``tail_size(k) + 1``-th
    largest: ties with the cutoff, which discrete latents make, do not exceed it. (The R package loo fits to those too,
    and underflows; ArviZ leaves them out, as is done here.)

    Args:
        log_weights: (k, ...), float.

    Returns:
        Shape (...), float64. Without a fit:

        - -inf where all weights of the tail are equal: there is no tail beyond them.
        - inf where a weight is infinite, or where fewer than 5 weights exceed the cutoff and hold more than half of the
          tail's total: the estimate rests on them alone.
        - NaN where fewer than 5 weights exceed the cutoff and hold less, with fewer than 5 weights in the tail
          (k < 21), where all weights are zero, and where any is NaN. It says neither good nor bad: count these apart,
          since a comparison with 0.7 does not see them.
    """
    checks.floating(log_weights=log_weights)
    checks.dimension(log_weights, 0)
    k = len(log_weights)
    if tail_size(k) < FEWEST_IN_TAIL:
        return torch.full(log_weights.shape[1:], math.nan, dtype=torch.float64, device=log_weights.device)
    return pareto_k_of_largest(log_weights.double().topk(tail_size(k) + 1, dim=0).values)


def pareto_k_of_largest(largest: Tensor) -> Tensor:
    """Estimate the same from the ``tail_size(k) + 1`` largest log-weights, in descending order: the last is the
    cutoff."""
    largest = largest.double()
    cutoff, tail = largest[-1], largest[:-1]
    exceeds = tail > cutoff
    count = exceeds.sum(0)
    # log(w - u), relative to the largest weight, where u is the cutoff's: it may be zero.
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
    """Fit the shape of a generalized Pareto distribution by the empirical Bayes estimate of Zhang & Stephens (2009), a
    mean over a grid of b = -shape / scale weighted by the profile likelihood.

    The logarithms of the exceedances x, (n, ...), come in descending order; the first ``count`` of each column count,
    and the others are -inf. The grid is b = 1 / max x - c / (3 q), with q the first quartile of x and c > 0. The shape
    does not depend on the unit of x, and with q as unit all numbers of the grid are moderate, however far apart the
    exceedances are.
    """
    quartile = (count - torch.floor(count / 4.0 + 0.5)).long()
    log_ratio = log_exceedances - log_exceedances.gather(0, quartile.unsqueeze(0))
    points = FIRST_POINTS + count.sqrt().floor()
    zero = log_ratio.new_zeros(())

    def shape_at(a: Tensor) -> Tensor:
        """The mean of log(1 + a x / q) is the shape of the largest likelihood given b = -a / q."""
        rising = torch.logaddexp(log_ratio + torch.log(a.clamp(min=TINY)), zero)
        falling = torch.log1p(a * torch.exp(torch.where(a < 0, log_ratio, -math.inf)))
        return torch.where(a < 0, falling, rising).sum(0) / count

    slopes, log_profile = [], []
    # One by one: the whole grid at once would take more memory than the weights did.
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
