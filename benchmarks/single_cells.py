"""``python -m benchmarks.single_cells``: the count densities on simulated cells, beside scVI's formula in float32 and
the package's reference in float64 operations of torch: time, memory and error of the log-likelihood of every cell, and
of its gradients with respect to the means (cells, genes), the dispersions (genes,) and the dropout logits.

Times are of the process, so that other processes count as little as possible, on one thread, in alternate rounds over
minibatches of cells; medians are given. Memory is the peak of live tensors of one minibatch, forward and backward. The
error is the largest of any cell's log-likelihood, relative to float64 throughout.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import iwae_fast as iw

from . import machine
from .peak_memory import PeakMemory

Density = Callable[..., Tensor]
MINIBATCH = 256
REFERENCE_CELLS = 512
"""The cells of the reference's times, which are several times as long."""


@dataclass(frozen=True)
class Row:
    """The figures of one implementation of one density."""

    density: str
    provider: str
    cells: int
    genes: int
    forward_ns: float
    """Nanoseconds per count; forward and backward together in ``both_ns``."""
    both_ns: float
    peak_mib: float
    error_nats: float
    rounds: int
    device: str
    torch: str


def negative_binomial(x: Tensor, log_mean: Tensor, log_theta: Tensor, eps: float = 1e-8) -> Tensor:
    """Compute the log-probability as scVI does: from means and thetas, with eps inside the logarithms."""
    return _terms(x, log_mean.exp(), log_theta.exp(), eps).sum(-1)


def _terms(x: Tensor, mean: Tensor, theta: Tensor, eps: float) -> Tensor:
    log_total = torch.log(theta + mean + eps)
    ways = torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1.0)
    of_theta = theta * (torch.log(theta + eps) - log_total)
    return ways + of_theta + x * (torch.log(mean + eps) - log_total)


def zero_inflated(x: Tensor, log_mean: Tensor, log_theta: Tensor, logits: Tensor, eps: float = 1e-8) -> Tensor:
    """Compute the log-probability as scVI does, for zeros and for other counts, of which one is selected."""
    mean, theta = log_mean.exp(), log_theta.exp()
    missed = F.softplus(-logits)
    zero = theta * (torch.log(theta + eps) - torch.log(theta + mean + eps))
    of_zero = F.softplus(zero - logits) - missed
    of_others = _terms(x, mean, theta, eps) - logits - missed
    return torch.where(x < eps, of_zero, of_others).sum(-1)


def simulated(cells: int, genes: int) -> tuple[Tensor, ...]:
    """Return counts, log-means near those of a fitted model, log-thetas (genes,) and dropout logits: a few thousand
    molecules per cell, nine tenths of the counts zero, thetas from overdispersed to nearly Poisson."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    shares = torch.log_softmax(2.0 * normal(genes) + 0.3 * normal(cells, genes), -1)
    log_mean = shares + 8.0 + 0.5 * normal(cells, 1)
    log_theta = 3.0 * normal(genes) + 2.0
    theta = log_theta.exp()
    noise = torch._standard_gamma(theta.expand(cells, genes).contiguous(), generator=generator) / theta
    x = torch.poisson(log_mean.exp() * noise, generator=generator)
    return x, log_mean + 0.05 * normal(cells, genes), log_theta, normal(cells, genes) - 2.0


def run(density: Density, parts: Sequence[Tensor]) -> tuple[Tensor, float, float]:
    """Return log-likelihoods (cells,), and the seconds of the forward and backward passes."""
    shared = parts[2].clone().requires_grad_()
    values, forward, backward = [], 0.0, 0.0
    for x, log_mean, *others in zip(*(p.split(MINIBATCH) for p in (*parts[:2], *parts[3:])), strict=True):
        leaves = [t.clone().requires_grad_() for t in (log_mean, *others)]
        start = time.process_time()
        value = density(x, leaves[0], shared, *leaves[1:])
        middle = time.process_time()
        value.sum().backward()
        forward, backward = forward + middle - start, backward + time.process_time() - middle
        values.append(value.detach())
    return torch.cat(values), forward, backward


def peak(density: Density, parts: Sequence[Tensor]) -> int:
    few = [p if p.dim() == 1 else p[:MINIBATCH] for p in parts]
    leaves = [few[0], *(p.clone().requires_grad_() for p in few[1:])]
    with PeakMemory() as memory:
        density(*leaves).sum().backward()
    return memory.peak


def rows(cells: int, genes: int, rounds: int) -> list[Row]:
    made: list[Row] = []
    parts = simulated(cells, genes)
    device, version = machine.conditions(torch.device("cpu"))["device"], torch.__version__
    densities: tuple[tuple[str, int, Density, Density], ...] = (
        ("negative_binomial_log_prob", 3, iw.negative_binomial_log_prob, negative_binomial),
        ("zero_inflated_negative_binomial_log_prob", 4, iw.zero_inflated_negative_binomial_log_prob, zero_inflated),
    )
    for name, count, op, formula in densities:
        own = parts[:count]
        exact = op(*(p.double() for p in own))
        providers: dict[str, tuple[Density, Sequence[Tensor]]] = {
            "iwae_fast": (op, own),
            "scVI's formula, float32": (formula, own),
            "reference, float64": (
                partial(op, backend="reference"),
                [p if p.dim() == 1 else p[:REFERENCE_CELLS] for p in own],
            ),
        }
        times: dict[str, list[tuple[float, float]]] = {provider: [] for provider in providers}
        errors = {}
        for number in range(rounds + 1):  # the first is not counted
            for provider, (density, given) in providers.items():
                if provider.startswith("reference") and number > 1:
                    continue
                value, forward, backward = run(density, given)
                errors[provider] = float((value.double() - exact[: len(value)]).abs().max())
                if number:
                    times[provider].append((forward, forward + backward))
        for provider, (density, given) in providers.items():
            forward, both = np.median(np.array(times[provider]), 0) / given[1].numel() * 1e9
            measured = (float(forward), float(both), peak(density, given) / 2**20, errors[provider])
            counted = len(times[provider])
            made.append(Row(name, provider, len(given[0]), genes, *measured, counted, device, version))
            print(made[-1], flush=True)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=10_000)
    parser.add_argument("--genes", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, help="a CSV file for the rows")
    given = parser.parse_args()
    torch.set_num_threads(1)
    made = rows(given.cells, given.genes, given.rounds)
    if given.output is not None:
        with given.output.open("w", newline="") as file:
            writer = csv.DictWriter(file, [f.name for f in fields(Row)], lineterminator="\n")
            writer.writeheader()
            for row in made:
                figures = asdict(row).items()
                writer.writerow({name: f"{x:.4g}" if isinstance(x, float) else x for name, x in figures})


if __name__ == "__main__":
    main()
