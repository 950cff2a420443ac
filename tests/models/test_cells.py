"""Tests of the VAE of cells: its context, its likelihood, and differential expression."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import iwae_fast as iw
from iwae_fast.models import CellVAE

GENES = 9


def counts(cells: int = 7) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.poisson(torch.full((cells, GENES), 3.0), generator=generator)


def build(**options: Any) -> CellVAE:
    torch.manual_seed(0)
    return CellVAE(GENES, 3, (8,), **options)


def inputs(model: CellVAE, cells: int = 7) -> tuple[Tensor, tuple[Tensor, ...]]:
    x = counts(cells)
    return x, model.context_of(x, torch.arange(cells) % model.num_batches if model.num_batches > 1 else None)


OPTIONS = [
    {"num_batches": batches, "dispersion": dispersion, "zero_inflated": inflated}
    for batches in (1, 3)
    for dispersion in ("gene", "gene-cell")
    for inflated in (False, True)
]


@pytest.mark.parametrize("options", OPTIONS)
def test_log_weights_are_those_of_the_definition(options: dict[str, Any]) -> None:
    """Compute p(x | z) with torch.distributions from the decoder's outputs, and the rest from the encoder's."""
    model = build(**options).double()
    x, context = inputs(model)
    mean, log_std = model.encode(x, context=context)
    z, log_ratio = iw.sample_gaussian(mean, log_std, 5, 3)
    with torch.no_grad():
        repeated = [part.expand(5, *part.shape).flatten(0, 1) for part in context]
        output = model.decoder(z.flatten(0, 1), *repeated)
        parts = list(output) if isinstance(output, tuple) else [output]
        if options["dispersion"] == "gene":
            parts.insert(1, model.likelihood.log_theta.expand_as(parts[0]))  # type: ignore[union-attr]
        log_mean, log_theta, *dropout = (part.reshape(5, 7, GENES) for part in parts)
        terms = torch.distributions.NegativeBinomial(log_theta.exp(), logits=log_mean - log_theta).log_prob(x)
        for logits in dropout:
            missed, kept = torch.nn.functional.logsigmoid(logits), torch.nn.functional.logsigmoid(-logits)
            terms = torch.where(x == 0, torch.logaddexp(missed, terms + kept), terms + kept)
    expected = terms.sum(-1) + log_ratio
    torch.testing.assert_close(model.log_weights(x, 5, 3, context=context), expected)
    torch.testing.assert_close(torch.logsumexp(log_mean, -1), context[0].T.expand(5, 7))


@pytest.mark.parametrize("options", OPTIONS[::3])
def test_every_parameter_learns(options: dict[str, Any]) -> None:
    model = build(**options)
    x, context = inputs(model, 40)
    objective = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=4)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for step in range(40):
        optimizer.zero_grad()
        loss = objective(model, x, context=context, seed=step)
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        optimizer.step()
        losses.append(loss.item())
    assert sum(losses[-5:]) < sum(losses[:5])


def test_integer_counts_give_the_same() -> None:
    model = build(num_batches=3)
    x, context = inputs(model)
    for dtype in (torch.uint8, torch.int32):
        again = model.context_of(x.to(dtype), context[1])
        assert torch.equal(again[0], context[0])
        whole = model.log_weights(x.to(dtype), 2, 0, context=again)
        assert torch.equal(whole, model.log_weights(x, 2, 0, context=context))


def test_evaluation_takes_the_context() -> None:
    model = build(num_batches=3)
    x, context = inputs(model)
    found = iw.evaluate.log_likelihood(model, x, 200, context=context, seed=0)
    weights = model.log_weights(x, 200, 0, context=context)
    torch.testing.assert_close(found.value.float(), iw.log_mean_exp(weights), rtol=1e-5, atol=1e-4)


def test_an_empty_cell_has_a_library_of_one() -> None:
    model = build()
    x = torch.zeros(2, GENES)
    assert torch.equal(model.context_of(x)[0], torch.zeros(2, 1))
    assert model.log_weights(x, 3, 0, context=model.context_of(x)).isfinite().all()


@pytest.mark.parametrize(
    ("options", "x", "batch", "error", "message"),
    [
        ({}, torch.zeros(2, 4), None, ValueError, r"x must be counts \(B, 9\), got shape \(2, 4\)"),
        ({}, counts(), torch.zeros(7).long(), ValueError, "batch must be None: the model has one batch"),
        ({"num_batches": 2}, counts(), None, TypeError, r"batch must be an int64 tensor \(B,\) = \(7,\) .* NoneType"),
        ({"num_batches": 2}, counts(), torch.zeros(7), TypeError, "got torch.float32"),
        ({"num_batches": 2}, counts(), torch.full((7,), 2), ValueError, "batch must be from 0 to 1, got 2 to 2"),
    ],
)
def test_context_that_does_not_fit(
    options: dict[str, Any], x: Tensor, batch: Tensor | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        build(**options).context_of(x, batch)


def test_arguments_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="unknown dispersion 'genes': did you mean 'gene'"):
        build(dispersion="genes")
    with pytest.raises(ValueError, match="num_batches must be at least 1, got 0"):
        build(num_batches=0)
    with pytest.raises(ValueError, match=r"context must be \(log_library, batch\), .* got 1 tensors"):
        build(num_batches=2).encode(counts(), context=(torch.zeros(7, 1),))


def test_gene_wise_dispersion_in_a_dense_vae(tmp_path: Any) -> None:
    """Check the likelihood's own parameter, its gradient summed over cells and samples, draws, and a folder."""
    pytest.importorskip("safetensors")
    likelihood = iw.likelihoods.NegativeBinomial(num_features=GENES)
    model = iw.models.DenseVAE(GENES, (2,), (6,), likelihood=likelihood)
    assert likelihood.outputs == ("log_mean",)
    with torch.no_grad():
        likelihood.log_theta.copy_(torch.linspace(-1.0, 2.0, GENES))  # type: ignore[union-attr]
    x = counts()
    iw.Objective(iw.bounds.IWAE(), num_samples=4)(model, x, seed=0).backward()
    assert (likelihood.log_theta.grad != 0).all()  # type: ignore[union-attr]
    assert likelihood.sample(torch.zeros(5, GENES)).shape == (5, GENES)
    model.save_pretrained(tmp_path / "model")
    same = iw.models.DenseVAE.from_pretrained(tmp_path / "model")
    assert torch.equal(same.log_weights(x, 3, 1), model.log_weights(x, 3, 1))


class TestDifferentialExpression:
    def test_draws_have_the_posterior_of_the_groups(self) -> None:
        """Compare with self-normalized importance sampling over all pairs of cells and samples."""
        model = build().double()
        x = counts(6)
        x[3:, 0] += 12.0
        context = model.context_of(x)
        z, terms = model.terms(
            x, model.encode(x, context=context), iw.models.draw.Draw(torch.tensor(5), 4000), context=context
        )
        with torch.no_grad():
            weights = torch.softmax(terms.log_weights(), 0) / 3.0
            share = model.log_expression(z.flatten(0, 1)).unflatten(0, (4000, 6)) / math.log(2.0)
            expected = (weights[..., None] * share)[:, 3:].sum((0, 1)) - (weights[..., None] * share)[:, :3].sum((0, 1))
        first = torch.arange(6) >= 3
        found = iw.evaluate.differential_expression(model, x, first, ~first, num_samples=400, num_pairs=20000, seed=1)
        assert ((found.log_fold_change - expected).abs() < 6 * found.std / math.sqrt(2000) + 0.01).all()
        assert found.ess.shape == (6,)
        assert (found.ess >= 1).all()

    def test_the_same_seed_gives_the_same_and_groups_are_antisymmetric(self) -> None:
        model = build(num_batches=3)
        x, (_, batch) = inputs(model, 20)
        options: dict[str, Any] = {"batch": batch, "num_samples": 5, "num_pairs": 300, "seed": 3}
        first, second = torch.arange(10), torch.arange(10, 20)
        found = iw.evaluate.differential_expression(model, x, first, second, **options)
        again = iw.evaluate.differential_expression(model, x, first, second, **options)
        for ours, theirs in zip(found, again, strict=True):
            assert torch.equal(ours, theirs)
        other = iw.evaluate.differential_expression(model, x, second, first, **options)
        assert ((found.log_fold_change + other.log_fold_change).abs() < found.std).all()

    def test_bayes_factors_and_probabilities(self) -> None:
        model, x = build(), counts()
        options: dict[str, Any] = {"num_samples": 2, "num_pairs": 50, "seed": 0}
        always = iw.evaluate.differential_expression(
            model, x, torch.arange(3), torch.arange(3, 7), delta=0.0, **options
        )
        assert (always.probability == 1).all()
        torch.testing.assert_close(always.log_bayes_factor, torch.full((GENES,), math.log(99.0)).double())
        never = iw.evaluate.differential_expression(
            model, x, torch.arange(3), torch.arange(3, 7), pseudocount=1e6, **options
        )
        assert (never.probability == 0).all()
        assert never.discoveries().sum() == 0
        assert always.discoveries(0.0).all()

    def test_the_rate_of_false_discoveries(self) -> None:
        probability = torch.tensor([0.2, 0.99, 0.9, 0.97]).double()
        result = iw.evaluate.DifferentialExpression(*[torch.zeros(4)] * 2, probability, *[torch.zeros(4)] * 2)
        assert result.discoveries(0.05).tolist() == [False, True, True, True]  # (0.01 + 0.03 + 0.1) / 3
        assert result.discoveries(0.03).tolist() == [False, True, False, True]
        assert result.discoveries(0.005).sum() == 0
        with pytest.raises(ValueError, match="fdr must be a number from 0 to 1, got 2"):
            result.discoveries(2)

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (
                {"model": iw.models.DenseVAE(GENES)},
                TypeError,
                "model must be an iwae_fast.models.CellVAE, got DenseVAE",
            ),
            ({"delta": -1.0}, ValueError, "delta must be a number of at least 0, got -1.0"),
            ({"num_pairs": 0}, ValueError, "num_pairs must be at least 1, got 0"),
            ({"first": torch.zeros(7)}, TypeError, r"first must be a bool tensor .* got torch.float32 \(7,\)"),
            ({"first": torch.zeros(7).bool()}, ValueError, "first must hold at least one cell"),
            ({"second": torch.tensor([7])}, ValueError, "second must be from 0 to 6, got 7 to 7"),
            ({"second": torch.ones(3).bool()}, ValueError, "second must have one entry per cell, 7 in all, got 3"),
        ],
    )
    def test_arguments_that_do_not_fit(self, change: dict[str, Any], error: type[Exception], message: str) -> None:
        arguments = {"model": build(), "x": counts(), "first": torch.arange(3), "second": torch.arange(3, 7), **change}
        with pytest.raises(error, match=message):
            iw.evaluate.differential_expression(**arguments)  # type: ignore[arg-type]
