"""Tests of chunks, tolerances and budgets: exact ones equal all samples at once, random ones do so on average."""

from __future__ import annotations

import pytest
import torch
from linear_gaussian import linear_gaussian
from offered_settings import CELLS, K, away_from_the_optimum, cells, gradients
from torch import nn

import iwae_fast as iw
from benchmarks.peak_memory import PeakMemory
from iwae_fast.bounds import ELBO, IWAE, JVI, PIWAE, Bound
from iwae_fast.objectives.budgets import to_tolerance, within_budget
from iwae_fast.objectives.estimators import Scales

PROBED = ("reparameterized", "dreg", "aisle-chi2", "rws", "vimco")


def random_scales(k: int, batch: int) -> Scales:
    """Return scales of both signs that differ between the two networks."""
    torch.manual_seed(3)
    return Scales(*torch.randn(2, k, batch, dtype=torch.float64).pow(3).unbind())


def scatter(scales: Scales, samples: torch.Tensor, k: int) -> torch.Tensor:
    """Return (2, k, B): the scales at their samples, and 0 elsewhere."""
    return torch.stack([torch.zeros(k, s.shape[1], dtype=s.dtype).scatter(0, samples, s) for s in scales])


@cells
def test_chunks_are_exact(name: str, bound: Bound, estimator: str) -> None:
    model, x = away_from_the_optimum(name)
    whole = iw.Objective(bound, estimator, num_samples=K)
    expected, value = gradients(whole, model, x, 1), whole.last.value
    for chunk_size in (1, 4, 100) if name == "one layer" else (4,):
        chunked = iw.Objective(bound, estimator, num_samples=K, chunk_size=chunk_size)
        torch.testing.assert_close(gradients(chunked, model, x, 1), expected)
        torch.testing.assert_close(chunked.last.value, value)
        assert chunked.last.num_backward.tolist() == whole.last.num_backward.tolist()


@cells
def test_all_samples_chosen_are_all_samples(name: str, bound: Bound, estimator: str) -> None:
    model, x = away_from_the_optimum(name)
    whole = iw.Objective(bound, estimator, num_samples=K)
    expected = gradients(whole, model, x, 1)
    choices = {"budget": K}, {"budget": 50}, {"tolerance": 0.0}, {"budget": K, "chunk_size": 4}
    for options in choices if name == "one layer" else choices[-1:]:
        chosen = iw.Objective(bound, estimator, num_samples=K, **options)
        torch.testing.assert_close(gradients(chosen, model, x, 1), expected)
        torch.testing.assert_close(chosen.last[:3], whole.last[:3])


@pytest.mark.parametrize("budget", [1, 2, 5])
def test_the_drawn_sample_stands_for_the_rest(budget: int) -> None:
    """Compare the mean of 40,000 draws with the scales; the largest ones are always kept unchanged."""
    k, draws = 8, 40_000
    scales = random_scales(k, 1)
    many = Scales(*(s.expand(k, draws) for s in scales))
    exponential = torch.empty(k, draws, dtype=torch.float64).exponential_(generator=torch.Generator().manual_seed(1))
    selection = within_budget(many, budget, exponential)
    assert selection.samples.shape == (budget, draws)
    assert (selection.num_used == budget).all()
    found = scatter(selection.scales, selection.samples, k)
    exact = torch.stack(list(scales))
    error = found.std(-1) / draws**0.5
    assert ((found.mean(-1) - exact[..., 0]).abs() <= 5 * error + 1e-12).all()
    importance = sum(s.abs() / s.abs().sum(0) for s in scales)[:, 0]
    for sample in importance.topk(budget - 1).indices:
        torch.testing.assert_close(found[:, sample], exact[:, sample].expand(2, draws))


def test_nothing_is_drawn_from_nothing() -> None:
    scales = Scales(*(torch.tensor([[0.0], [2.0], [0.0]]) for _ in range(2)))
    selection = within_budget(scales, 2, torch.ones(3, 1))
    assert selection.scales.decoder.sum() == 2.0
    assert selection.num_used.tolist() == [1]
    nothing = within_budget(Scales(torch.zeros(3, 1), torch.zeros(3, 1)), 2, torch.ones(3, 1))
    assert nothing.scales.decoder.abs().sum() == 0
    assert nothing.num_used.tolist() == [0]


@pytest.mark.parametrize("tolerance", [0.0, 1e-3, 0.1, 0.9])
def test_a_tolerance_drops_no_more_than_it_says(tolerance: float) -> None:
    scales = random_scales(50, 7)
    selection = to_tolerance(scales, tolerance)
    kept = scatter(selection.scales, selection.samples, 50)
    for before, after in zip(scales, kept, strict=True):
        assert ((after == 0) | (after == before)).all()
        dropped = (before - after).abs().sum(0) / before.abs().sum(0)
        assert (dropped <= tolerance + 1e-12).all()
        # The next smallest would have been too much.
        smallest = torch.where(after == 0, torch.inf, after.abs()).amin(0) / before.abs().sum(0)
        assert (dropped + smallest > tolerance).all()
    assert selection.num_used.max() == len(selection.samples)


@pytest.mark.parametrize(
    ("name", "bound", "estimator"),
    [
        *((n, b, e) for n, b, e in CELLS if n == "one layer" and type(b) in (ELBO, IWAE, JVI, PIWAE) and e in PROBED),
        *((n, b, e) for n, b, e in CELLS if n == "three layers" and type(b) is IWAE and e in ("gdreg", "vimco")),
        *((n, b, e) for n, b, e in CELLS if n == "binary" and type(b) is IWAE),
    ],
    ids=str,
)
def test_a_budget_is_unbiased(name: str, bound: Bound, estimator: str) -> None:
    """Compare 10,000 draws with all samples, within 5 standard errors of the paired difference."""
    model, x = away_from_the_optimum(name)
    draws, batches = x[:1].expand(500, 4), 20
    for budget in (1, 3):
        differences = []
        for seed in range(batches):
            ours, whole = (
                torch.cat([g.flatten() for g in gradients(iw.Objective(bound, estimator, K, **o), model, draws, seed)])
                for o in ({"budget": budget}, {})
            )
            differences.append(ours - whole)
        stacked = torch.stack(differences)
        error = stacked.std(0) / batches**0.5
        assert (stacked.mean(0).abs() < 5 * error + 1e-9).all()
        assert error.max() > 1e-9


def test_value_is_that_of_all_samples() -> None:
    model, x = away_from_the_optimum()
    for bound in (ELBO(), IWAE(), JVI(1), PIWAE(2)):
        expected = iw.Objective(bound, num_samples=K)(model, x, seed=1)
        for options in ({"budget": 1}, {"budget": 2, "chunk_size": 2}, {"tolerance": 0.5}):
            objective = iw.Objective(bound, "dreg", num_samples=K, **options)
            torch.testing.assert_close(objective(model, x, seed=1), expected)
            assert (objective.last.num_backward <= K).all()
            assert objective.last.num_backward.shape == (3,)


@pytest.mark.parametrize("options", [{"chunk_size": 25}, {"budget": 8}])
def test_memory_does_not_grow_with_k(options: dict) -> None:
    """Compare the memory at k = 500 with that of a plain pass: at most an eighth."""
    model, x = iw.models.DenseVAE(784), torch.rand(20, 784)

    def peak(objective: iw.Objective) -> int:
        model.zero_grad()
        with PeakMemory() as memory:
            objective(model, x, seed=1).backward()
        return memory.peak

    plain = peak(iw.Objective(IWAE(), num_samples=500))
    assert plain > 5e7
    assert peak(iw.Objective(IWAE(), num_samples=500, **options)) < plain / 8


@pytest.mark.parametrize("options", [{"chunk_size": 2}, {"budget": 2}, {"tolerance": 0.1}])
def test_layers_that_change_are_refused_in_training(options: dict) -> None:
    decoder = nn.Sequential(nn.Linear(2, 8), nn.Dropout(0.5), nn.Linear(8, 4))
    model = iw.models.VAE(linear_gaussian(4, 2).float().encoder, decoder)
    x, objective = torch.rand(3, 4), iw.Objective(IWAE(), num_samples=4, **options)
    with pytest.raises(ValueError, match=r"decoder.1 \(Dropout\) is stochastic in training mode, but"):
        objective(model, x)
    iw.Objective(IWAE(), num_samples=4)(model, x)  # all samples at once run it once
    model.eval()
    objective(model, x).backward()


def test_training_with_a_budget_learns() -> None:
    torch.manual_seed(0)
    model, x = iw.models.DenseVAE(16, (4,), (32,)), (torch.rand(64, 16) < 0.2).float()
    objective = iw.Objective(IWAE(), "dreg", num_samples=20, budget=3)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for step in range(60):
        optimizer.zero_grad()
        loss = objective(model, x, seed=step)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 1.0


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"budget": 0}, ValueError, "budget must be at least 1"),
        ({"budget": 2.0}, TypeError, "budget must be an int"),
        ({"chunk_size": 0}, ValueError, "chunk_size must be at least 1"),
        ({"tolerance": 1.0}, ValueError, "tolerance must be at least 0 and below 1, got 1.0"),
        ({"tolerance": 0.1, "budget": 2}, ValueError, "budget and tolerance cannot both be given"),
    ],
)
def test_bad_arguments(options: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        iw.Objective(IWAE(), num_samples=5, **options)
