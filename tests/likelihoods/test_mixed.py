"""Tests of tables with columns of several kinds, of their schemas, and of bounds of standard deviations."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

import iwae_fast as iw
from iwae_fast.likelihoods import Column, Gaussian, Mixed, StudentT, infer_columns, read_schema
from iwae_fast.likelihoods.columns import as_columns, as_toml

SCHEMA = {
    "age": "real",
    "blood": {"kind": "categorical", "classes": 4},
    "visits": "count",
    "smoker": "binary",
    "height": "real",
    "region": {"kind": "categorical", "classes": 4},
    "sex": {"kind": "categorical", "classes": 3},
}
K, B, D = 3, 5, len(SCHEMA)


def table(rows: int = B) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    real = torch.randn(rows, 2, generator=generator)
    columns = [
        real[:, 0],
        torch.randint(4, (rows,), generator=generator),
        torch.randint(50, (rows,), generator=generator),
        torch.randint(2, (rows,), generator=generator),
        real[:, 1],
        torch.randint(4, (rows,), generator=generator),
        torch.randint(3, (rows,), generator=generator),
    ]
    return torch.stack([column.double() for column in columns], 1)


def output(likelihood: Mixed, rows: int) -> tuple[Tensor, ...]:
    generator = torch.Generator().manual_seed(1)
    sizes = likelihood.output_sizes(D).values()
    return tuple(torch.randn(rows, size, generator=generator, dtype=torch.float64) for size in sizes)


@pytest.mark.parametrize("masked", [False, True])
def test_density_is_the_sum_over_columns(masked: bool) -> None:
    likelihood = Mixed(SCHEMA, log_std_bounds=None)
    assert likelihood.outputs == (
        "real_mean",
        "real_log_std",
        "categorical4_logits",
        "count_log_mean",
        "count_log_theta",
        "binary_logits",
        "categorical3_logits",
    )
    x, parts = table(), output(likelihood, K * B)
    mean, log_std, four, log_mean, log_theta, binary, three = (part.unflatten(0, (K, B)) for part in parts)
    d = torch.distributions
    four = four.unflatten(-1, (2, 4))
    terms = torch.stack(
        [
            d.Normal(mean[..., 0], log_std[..., 0].exp()).log_prob(x[:, 0]),
            d.Categorical(logits=four[..., 0, :]).log_prob(x[:, 1]),
            d.NegativeBinomial(log_theta[..., 0].exp(), logits=(log_mean - log_theta)[..., 0]).log_prob(x[:, 2]),
            d.Bernoulli(logits=binary[..., 0]).log_prob(x[:, 3]),
            d.Normal(mean[..., 1], log_std[..., 1].exp()).log_prob(x[:, 4]),
            d.Categorical(logits=four[..., 1, :]).log_prob(x[:, 5]),
            d.Categorical(logits=three).log_prob(x[:, 6]),
        ],
        -1,
    )
    mask = None
    if masked:
        mask = torch.rand(B, D, generator=torch.Generator().manual_seed(2)) < 0.5
        terms, x = torch.where(mask, terms, 0.0), torch.where(mask, x, torch.nan)
    torch.testing.assert_close(likelihood.log_prob(x, parts, K, mask), terms.sum(-1), rtol=1e-10, atol=1e-10)
    leaves = tuple(part.requires_grad_() for part in parts)
    assert torch.autograd.gradcheck(lambda *p: likelihood.log_prob(x, p, K, mask), leaves)


@pytest.mark.parametrize("options", [{}, {"real": "student-t", "count": "zero-inflated-poisson"}])
def test_models_of_tables_train_and_impute(options: dict, tmp_path: Path) -> None:
    x = table(40).float()
    torch.manual_seed(0)
    model = iw.models.DenseVAE(D, (2,), (8,), likelihood=Mixed(SCHEMA, **options), data_mean=x.mean(0), validate=True)
    mask = torch.rand(40, D) < 0.7
    x = torch.where(mask, x, torch.nan)
    objective = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=5, budget=2)
    first = objective(model, x, mask=mask, seed=1)
    first.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    found = model.impute(x, num_samples=50, num_draws=3, median=True, seed=0)
    for imputed in (found.mean, found.median, *found.draws):
        assert imputed.isfinite().all()
        assert torch.equal(imputed[mask], x[mask])
        for column, (name, kind) in enumerate(SCHEMA.items()):
            if isinstance(kind, dict):
                assert set(imputed[:, column].tolist()) <= set(range(kind["classes"])), name
    model.likelihood.check_support(found.draws.flatten(0, 1))
    drawn = model.likelihood.sample(model.decoder(model.prior_draws(6, 1)))
    assert drawn.shape == (6, D)
    model.likelihood.check_support(drawn)
    if pytest.importorskip("safetensors"):
        model.save_pretrained(tmp_path)
        again = iw.models.DenseVAE.from_pretrained(tmp_path)
        again_found = again.impute(x, num_samples=50, seed=0)
        torch.testing.assert_close(again_found.mean, found.mean)


def test_encoder_sees_zeros_for_missing_features() -> None:
    likelihood = Mixed(SCHEMA)
    x = table(1)
    assert likelihood.encoder_width(D) == 2 + 1 + 1 + 4 + 4 + 3
    whole = likelihood.encoder_input(x, None)
    assert whole.shape == (1, 15)
    assert set(whole[0, 2:10].tolist()) == {0.0, 1.0}  # one-hot vectors of the first two columns of classes
    assert whole[0, 2:10].sum() == 2
    assert (likelihood.encoder_input(x, torch.zeros(1, D, dtype=torch.bool)) == 0).all()
    model = iw.models.DenseVAE(D, (2,), (8,), likelihood=likelihood)
    mask = torch.ones(1, D, dtype=torch.bool)
    mask[0, 1] = False
    other = x.float().clone()
    other[0, 1] = (x[0, 1] + 1) % 4
    assert torch.equal(model.encode(x.float(), mask=mask).mean, model.encode(other, mask=mask).mean)
    assert not torch.equal(model.encode(x.float()).mean, model.encode(other).mean)


def test_wrong_entries_are_named_by_their_column() -> None:
    x = table().float()
    x[3, 5] = 4
    with pytest.raises(ValueError, match=r"column 'region' of .* takes whole numbers from 0 to 3, but x\[3, 5\] is 4"):
        Mixed(SCHEMA).check_support(x)
    mask = torch.ones(B, D, dtype=torch.bool)
    mask[3, 5] = False
    Mixed(SCHEMA).check_support(x, mask)
    model = iw.models.DenseVAE(D, (2,), (8,), likelihood=Mixed(SCHEMA))
    model.log_weights(table().float(), 2)
    model.log_weights(x.clamp(max=3), 2)
    with pytest.raises(ValueError, match="the 7 columns of the schema"):
        Mixed(SCHEMA).check_support(x[:, :3])


def test_validate_checks_every_call() -> None:
    """Check that a bad entry after the first batch is found only with ``validate``."""
    good, bad = torch.ones(4, 6), torch.ones(4, 6)
    bad[1, 2] = 7.0
    for validate in (False, True):
        model = iw.models.DenseVAE(6, (2,), (5,), validate=validate)
        model.log_weights(good, 2)
        if not validate:
            model.log_weights(bad, 2)
            continue
        with pytest.raises(ValueError, match=r"takes numbers from 0 to 1, but x\[1, 2\] is 7"):
            iw.Objective(iw.bounds.IWAE(), num_samples=2)(model, bad)


def test_schema_files(tmp_path: Path) -> None:
    path = tmp_path / "schema.toml"
    columns = as_columns(SCHEMA)
    path.write_text(as_toml(columns))
    assert read_schema(path) == columns
    assert as_columns(columns) == columns
    for text, message in (
        ("[columns]\na = 'rael'\n", "did you mean 'real'"),
        ("[columns]\na = { kind = 'categorical' }\n", "classes of column 'a' must be an int"),
        ("[columns]\na = { kind = 'real', classes = 3 }\n", "must be omitted for kind 'real'"),
        ("[other]\n", r"must have one table, \[columns\], got other"),
        ("columns", "is not a schema of columns"),
        ("[columns]\n", "must have at least one column"),
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_schema(path)
    with pytest.raises(ValueError, match="got 'a' twice"):
        as_columns([Column("a", "real"), Column("a", "count")])
    with pytest.raises(ValueError, match="real must be one of gaussian, student-t, got 'beta'"):
        Mixed(SCHEMA, real="beta")


def test_inferred_schema() -> None:
    x = torch.tensor([[0.5, 0, 0, 3, -1, math.nan], [1.5, 1, 2, 200, 0, math.nan], [2.0, math.nan, 1, 0, 1, math.nan]])
    kinds = [(column.kind, column.classes) for column in infer_columns(x)]
    expected = [("real", None), ("binary", None), ("categorical", 3), ("count", None), ("real", None), ("real", None)]
    assert kinds == expected
    assert infer_columns(x[:, :1], ["a"])[0].name == "a"
    with pytest.raises(ValueError, match="one name per column, 6 in all, got 1"):
        infer_columns(x, ["a"])


@pytest.mark.parametrize("likelihood", [Gaussian(log_std_bounds=(-2.0, 1.0)), StudentT((-2.0, 1.0))])
def test_bounds_of_log_std(likelihood: Gaussian | StudentT) -> None:
    """Check the bounds far outside, the slope at the center, and fused and composed losses."""
    x = torch.zeros(1, 1, dtype=torch.float64)
    extreme = torch.tensor([[-1e6], [-0.5], [1e6]], dtype=torch.float64, requires_grad=True)
    free = torch.zeros(3, 1, dtype=torch.float64)
    parts = (free, extreme) if isinstance(likelihood, Gaussian) else (free, extreme, free + 90.0)
    log_prob = likelihood.log_prob(x, parts, 3)[:, 0]
    log_std = -log_prob - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(log_std, torch.tensor([-2.0, -0.5, 1.0], dtype=torch.float64))
    (slope,) = torch.autograd.grad(log_std.sum(), extreme)
    torch.testing.assert_close(slope, torch.tensor([[0.0], [1.0], [0.0]], dtype=torch.float64))
    log_ratio = torch.zeros(3, 1, dtype=torch.float64)
    loss = likelihood.iwae_loss(x, tuple(part.detach() for part in parts), log_ratio).loss
    torch.testing.assert_close(loss, -(torch.logsumexp(log_prob, 0) - math.log(3)))


def test_bounds_of_encoders() -> None:
    model = iw.models.DenseVAE(4, (2, 2), ((8,), (8,)), log_std_bounds=(-1.0, 0.5))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "log_std.bias" in name:
                parameter.fill_(100.0)
    assert torch.allclose(model.encode(torch.rand(3, 4)).log_std, torch.tensor(0.5))
    for bounds in ((1.0, -1.0), (0.0, math.inf), 3.0, "ab", (1.0,)):
        with pytest.raises(ValueError, match="log_std_bounds must be two finite numbers, the lower one first"):
            iw.models.DenseVAE(4, log_std_bounds=bounds)
    with pytest.raises(ValueError, match="log_std_bounds must be None unless scale is 'decoder'"):
        Gaussian("learned", log_std_bounds=(0.0, 1.0))
