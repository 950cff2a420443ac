"""Whether importance weights can be trusted."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from . import checks

FEWEST_IN_TAIL, FEWEST_SAMPLES = 5, 21
PRIOR_SHAPE, PRIOR_DRAWS = 0.5, 10
"""The fit is drawn towards this shape as if by so many draws (Vehtari et al. 2024, appendix G)."""


def tail_size(num_samples: int) -> int:
    """How many of k weights are the tail: min(k / 5, 3 sqrt(k))."""
    return math.ceil(min(0.2 * num_samples, 3.0 * math.sqrt(num_samples)))


def pareto_k(log_weights: Tensor) -> Tensor:
    """The shape of the tail of importance weights, k-hat (Vehtari, Simpson, Gelman, Yao & Gabry 2024).

    A generalised Pareto distribution is fitted to the largest weights. Below 0.5 the weights have a variance and
    estimates by them converge quickly; up to about 0.7 they are still useful; above 1 the weights have no mean.

    Args:
        log_weights: (k, ...), float.

    Returns:
        Shape (...), float64. NaN with fewer than 5 weights in the tail (k < 21) and where a tail is not finite; -inf
        where all its weights are equal.
    """
    checks.floating(log_weights=log_weights)
    checks.dimension(log_weights, 0)
    k = len(log_weights)
    if tail_size(k) < FEWEST_IN_TAIL:
        return torch.full(log_weights.shape[1:], math.nan, dtype=torch.float64, device=log_weights.device)
    return pareto_k_of_largest(log_weights.double().topk(tail_size(k) + 1, dim=0).values)


def pareto_k_of_largest(largest: Tensor) -> Tensor:
    """The same from the ``tail_size(k) + 1`` largest log-weights, in descending order: the last is the cutoff."""
    largest = largest.double()
    shifted = torch.exp(largest - largest[0])
    exceedances = (shifted[:-1] - shifted[-1]).flip(0)  # ascending
    spread = exceedances[-1] > 0
    shape = _generalized_pareto_shape(torch.where(spread, exceedances, torch.ones_like(exceedances)))
    return torch.where(largest.isfinite().all(0), torch.where(spread, shape, -math.inf), math.nan)


def _generalized_pareto_shape(exceedances: Tensor) -> Tensor:
    """The shape of a generalised Pareto distribution from an ascending sample (n, ...): the empirical Bayes estimate of
    Zhang & Stephens (2009), a mean over a grid of b = -shape / scale by its profile likelihood."""
    n = len(exceedances)
    grid = torch.arange(1, 31 + math.isqrt(n), dtype=torch.float64, device=exceedances.device) - 0.5
    grid = (1.0 - torch.sqrt((30 + math.isqrt(n)) / grid)).reshape(-1, *(1,) * (exceedances.dim() - 1))
    quartile = exceedances[int(n / 4 + 0.5) - 1]
    b = 1.0 / exceedances[-1] + grid / (3.0 * quartile)
    # One by one: the whole grid at once would take more memory than the weights did.
    shapes = torch.stack([torch.log1p(-point * exceedances).mean(0) for point in b])
    log_profile = n * (torch.log(-b / shapes) - shapes - 1.0)
    mean_b = (b * torch.softmax(log_profile, 0)).sum(0)
    shape = torch.log1p(-mean_b * exceedances).mean(0)
    return (n * shape + PRIOR_DRAWS * PRIOR_SHAPE) / (n + PRIOR_DRAWS)
