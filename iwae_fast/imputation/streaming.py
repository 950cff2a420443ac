"""Averages and draws over a stream of weighted samples, in memory that does not depend on their number."""

from __future__ import annotations

import math

import torch
from torch import Tensor


class StreamingAverages:
    """Self-normalized averages sum_i w_i v_i / sum_i w_i of B observations over a stream of samples.

    Samples are added in parts of any size. Sums are in float64, relative to the largest log-weight so far.

    Args:
        observations: B.
        device: the device of the samples.
    """

    def __init__(self, observations: int, device: torch.device | str = "cpu") -> None:
        self.largest: Tensor = torch.full((observations,), -math.inf, dtype=torch.float64, device=device)
        self.total: Tensor = torch.zeros_like(self.largest)
        self.sums: Tensor = torch.zeros((observations, 1), dtype=torch.float64, device=device)

    def add(self, log_weights: Tensor, values: Tensor) -> None:
        """Add samples with log-weights (n, B) in nats and values (n, B, S)."""
        log_weights = log_weights.double()
        largest = torch.maximum(self.largest, log_weights.amax(0))
        shift = torch.where(largest.isinf(), 0.0, largest)
        kept, weights = torch.exp(self.largest - shift), torch.exp(log_weights - shift)
        self.total = self.total * kept + weights.sum(0)
        # A value that overflows does not count where its weight is zero.
        values = torch.where(weights.unsqueeze(-1) == 0, 0.0, values.double())
        self.sums = self.sums * kept.unsqueeze(-1) + torch.einsum("nb,nbs->bs", weights, values)
        self.largest = largest

    def averages(self) -> Tensor:
        """Return the averages (B, S), float64; NaN where all weights are zero."""
        return self.sums / self.total.unsqueeze(-1)


class Resampler:
    """Draws of samples with probabilities proportional to their weights: sampling-importance-resampling (Rubin 1988).

    Each draw is a race: sample i with log-weight l_i and an exponential variable e_i wins if l_i - log e_i is the
    largest. The winners so far are all that a stream of samples needs.

    Args:
        draws: m, the number of draws per observation, which are independent given the samples.
        observations: B.
        device: the device of the samples.
    """

    def __init__(self, draws: int, observations: int, device: torch.device | str = "cpu") -> None:
        self.best: Tensor = torch.full((draws, observations), -math.inf, dtype=torch.float64, device=device)
        self.particles: Tensor = torch.zeros((draws, observations, 1), device=device)

    def add(self, log_weights: Tensor, noise: Tensor, particles: Tensor) -> None:
        """Add samples with log-weights (n, B), standard normal noise (n, B, m), and particles (n, B, P)."""
        exponential = -torch.special.log_ndtr(noise.double())
        race = log_weights.double().unsqueeze(-1) - torch.log(exponential)
        best, index = race.max(0)  # (B, m)
        chosen = particles.gather(0, index.T.unsqueeze(-1).expand(-1, -1, particles.shape[-1]))
        # The first part replaces the zeros, also where all of its weights are zero.
        wins = (self.best < best.T) | self.best.isneginf()
        self.particles = torch.where(wins.unsqueeze(-1), chosen, self.particles)
        self.best = torch.maximum(self.best, best.T)
