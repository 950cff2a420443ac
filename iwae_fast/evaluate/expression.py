"""Differential expression of genes between two groups of cells, from reweighted draws of the posterior."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from .. import checks
from ..models import CellVAE
from ..models.draw import Draw
from ..modes import evaluation_mode
from ..ops.samples import seed_number, seed_tensor

PAIRS_AT_ONCE = 512
"""The pairs of draws that are decoded at a time."""

CELLS_AT_ONCE = 64


class DifferentialExpression(NamedTuple):
    """The result of :func:`differential_expression`, with one entry per gene, (G,), float64."""

    log_fold_change: Tensor
    """E[log2 of the ratio of the gene's shares of molecules, first group to second]."""
    std: Tensor
    """The standard deviation of that logarithm over pairs of cells."""
    probability: Tensor
    """The probability that its absolute value exceeds ``delta``."""
    log_bayes_factor: Tensor
    """log of probability / (1 - probability), in nats; at most log(2 n + 1) from n pairs of draws, either way."""
    ess: Tensor
    """Effective sample sizes 1 / sum w^2 of the cells' importance weights, of the first group and then the second,
    (B,), from 1 to the number of samples."""

    def discoveries(self, fdr: float = 0.05) -> Tensor:
        """Return True for the largest set of genes whose expected rate of false discoveries is at most ``fdr``, (G,).

        The genes are taken by decreasing probability p; the expected rate of a set is the mean of its 1 - p
        (Boyeau et al. 2019).
        """
        if isinstance(fdr, bool) or not isinstance(fdr, (int, float)) or not 0.0 <= fdr <= 1.0:
            raise ValueError(f"fdr must be a number from 0 to 1, got {fdr!r}")
        order = torch.argsort(self.probability, descending=True, stable=True)
        rates = (1.0 - self.probability[order]).cumsum(0) / torch.arange(1, len(order) + 1, device=order.device)
        found = torch.zeros_like(order, dtype=torch.bool)
        found[order] = rates <= fdr  # the rates do not decrease
        return found


@torch.no_grad()
def differential_expression(
    model: CellVAE,
    x: Tensor,
    first: Tensor,
    second: Tensor,
    *,
    batch: Tensor | None = None,
    delta: float = 0.25,
    pseudocount: float = 0.0,
    num_samples: int = 100,
    num_pairs: int = 5000,
    seed: int | Tensor | None = None,
) -> DifferentialExpression:
    """Compare the expression of each gene in two groups of cells (Boyeau et al. 2019, 2023).

    The posterior of a group is the mixture of its cells' p(z | x). It is sampled by importance resampling: a cell is
    drawn, and one of k samples of its q(z | x) with probability proportional to its weight p(x, z) / q(z | x), so that
    the result does not depend on the errors of q, as k grows. Pairs of such draws, one of each group, give the
    logarithms of the ratios of the shares of molecules. If the model has several batches of measurements, both draws of
    a pair are decoded in the same one, drawn from those of the cells, so that differences of batches cancel.

    Args:
        model: a trained :class:`iwae_fast.models.CellVAE`, which runs in evaluation mode.
        x: counts (B, G) of all cells, on the model's device.
        first, second: the cells of each group: bool (B,), or int64 indices (n,).
        batch: int64 (B,), if the model has several batches.
        delta: the smallest absolute log2 fold change that counts as a difference, at least 0.
        pseudocount: a number that is added to each share before the logarithm, which draws the ratios of genes that are
            hardly expressed in either group towards 1; shares add to 1 over the genes.
        num_samples: k >= 1, the samples of q(z | x) per cell among which one is chosen; 1 is q itself.
        num_pairs: the number of pairs.
        seed: an int, or an int64 scalar tensor, for reproducible draws; drawn from torch's generator if None.

    Returns:
        A :class:`DifferentialExpression`.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """
    if not isinstance(model, CellVAE):
        raise TypeError(f"model must be an iwae_fast.models.CellVAE, got {type(model).__name__}")
    for name, number in (("delta", delta), ("pseudocount", pseudocount)):
        if isinstance(number, bool) or not isinstance(number, (int, float)) or not 0.0 <= number < math.inf:
            raise ValueError(f"{name} must be a number of at least 0, got {number!r}")
    checks.positive("num_samples", num_samples)
    checks.positive("num_pairs", num_pairs)
    groups = [_cells(name, cells, len(x), x.device) for name, cells in (("first", first), ("second", second))]
    generator = torch.Generator().manual_seed(seed_number(seed))
    with evaluation_mode(model):
        drawn = [_draws(model, x, cells, batch, num_samples, num_pairs, generator) for cells in groups]
        batches = None
        if batch is not None:
            of_cells = batch[torch.cat(groups)]
            batches = of_cells[torch.randint(len(of_cells), (num_pairs,), generator=generator).to(x.device)]
        totals = torch.zeros(3, model.num_genes, dtype=torch.float64, device=x.device)
        for start in range(0, num_pairs, PAIRS_AT_ONCE):
            part = slice(start, start + PAIRS_AT_ONCE)
            own = None if batches is None else batches[part]
            upper, lower = (_log_shares(model, z[part], own, pseudocount) for z, _ in drawn)
            change = (upper - lower) / math.log(2.0)
            totals += torch.stack([change.sum(0), change.square().sum(0), (change.abs() > delta).double().sum(0)])
    mean, square, probability = totals / num_pairs
    half = 0.5 / num_pairs  # a probability of 0 or 1 is known up to half a pair
    inside = probability.clamp(half, 1.0 - half)
    return DifferentialExpression(
        mean,
        (square - mean.square()).clamp(min=0.0).sqrt(),
        probability,
        torch.log(inside) - torch.log1p(-inside),
        torch.cat([ess for _, ess in drawn]),
    )


def _cells(name: str, cells: Tensor, count: int, device: torch.device) -> Tensor:
    """Return the indices of the cells of a group, at least one."""
    if not isinstance(cells, Tensor) or cells.dtype not in (torch.bool, torch.int64) or cells.dim() != 1:
        got = f"{cells.dtype} {tuple(cells.shape)}" if isinstance(cells, Tensor) else type(cells).__name__
        raise TypeError(f"{name} must be a bool tensor (B,) or int64 indices of cells, got {got}")
    if cells.dtype == torch.bool:
        if len(cells) != count:
            raise ValueError(f"{name} must have one entry per cell, {count} in all, got {len(cells)}")
        cells = cells.nonzero().squeeze(1)
    if not len(cells):
        raise ValueError(f"{name} must hold at least one cell")
    if int(cells.min()) < 0 or int(cells.max()) >= count:
        raise ValueError(f"{name} must be from 0 to {count - 1}, got {int(cells.min())} to {int(cells.max())}")
    return cells.to(device)


def _draws(
    model: CellVAE,
    x: Tensor,
    cells: Tensor,
    batch: Tensor | None,
    num_samples: int,
    num_pairs: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Draw z (n, Z) from the posterior of a group, in random order, and return the cells' effective sample sizes."""
    # Every cell is drawn equally often, up to one: which ones are drawn once more is random.
    order = torch.cat([torch.randperm(len(cells), generator=generator) for _ in range(-(-num_pairs // len(cells)))])
    counts = torch.bincount(order[:num_pairs], minlength=len(cells))
    seed = seed_tensor(int(torch.randint(2**62, (1,), generator=generator)), x.device)
    latents, sizes = [], []
    for start in range(0, len(cells), CELLS_AT_ONCE):
        index, wanted = cells[start : start + CELLS_AT_ONCE], counts[start : start + CELLS_AT_ONCE]
        own = x[index]
        context = model.context_of(own, None if batch is None else batch[index])
        draw = Draw(seed, num_samples, observation_offset=start)
        z, terms = model.terms(own, model.encode(own, context=context), draw, context=context)
        weights = torch.softmax(terms.log_weights().double(), 0).cpu()
        sizes.append(1.0 / weights.square().sum(0))
        for cell, count in enumerate(wanted.tolist()):
            if count:
                chosen = torch.multinomial(weights[:, cell], count, replacement=True, generator=generator)
                latents.append(z[chosen.to(x.device), cell])
    drawn = torch.cat(latents)
    return drawn[torch.randperm(len(drawn), generator=generator).to(x.device)], torch.cat(sizes)


def _log_shares(model: CellVAE, z: Tensor, batch: Tensor | None, pseudocount: float) -> Tensor:
    log_shares = model.log_expression(z, batch).double()
    return torch.logaddexp(log_shares, log_shares.new_tensor(math.log(pseudocount))) if pseudocount else log_shares
