from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_gaussian import exact_log_likelihood, linear_gaussian

import iwae_fast as iw
from iwae_fast.evaluate import likelihood, rows


@pytest.mark.parametrize("k", [1, 3, 100])
def test_exact_posterior_gives_the_marginal_likelihood(k: int) -> None:
    model, x = linear_gaussian(), torch.randn(6, 7, dtype=torch.float64)
    result = iw.evaluate.log_likelihood(model, x, k)
    torch.testing.assert_close(result.value, exact_log_likelihood(model, x).detach())
    torch.testing.assert_close(result.ess, torch.full((6,), float(k), dtype=torch.float64))
    if k > 1:
        assert (result.std_error < 1e-6).all()
    else:
        assert result.std_error.isnan().all()


def test_any_chunking_is_the_whole() -> None:
    model, x = linear_gaussian(), torch.randn(6, 7, dtype=torch.float64)
    with torch.no_grad():
        model.encoder.log_std += 1.0
    whole = iw.evaluate.log_likelihood(model, x, 101, chunk_size=101, seed=5)
    log_weights = model.log_weights(x, 101, 5).detach()
    torch.testing.assert_close(whole.value, torch.logsumexp(log_weights, 0) - math.log(101))
    torch.testing.assert_close(whole.ess, iw.effective_sample_size(log_weights))
    for chunk_size in (1, 7, 100, 1000, None):
        parts = iw.evaluate.log_likelihood(model, x, 101, chunk_size=chunk_size, seed=5)
        torch.testing.assert_close(parts.value, whole.value)
        torch.testing.assert_close(parts.std_error, whole.std_error)
        torch.testing.assert_close(parts.ess, whole.ess)


def test_more_observations_than_a_chunk_have_their_own_noise(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = linear_gaussian(), torch.randn(1, 7, dtype=torch.float64).expand(10, 7)
    with torch.no_grad():
        model.encoder.log_std += 1.0
    whole = iw.evaluate.log_likelihood(model, x, 20, seed=5)
    monkeypatch.setattr(likelihood, "OBSERVATIONS_A_CHUNK", 4)
    torch.testing.assert_close(iw.evaluate.log_likelihood(model, x, 20, seed=5).value, whole.value)
    assert len(whole.value.unique()) == 10


def test_standard_error_is_the_spread_of_repeated_estimates() -> None:
    model, x = linear_gaussian(), torch.randn(1, 7, dtype=torch.float64).expand(400, 7)
    with torch.no_grad():
        model.encoder.log_std += 0.3
    result = iw.evaluate.log_likelihood(model, x, 200, seed=1)
    spread = result.value.std().item()
    assert 0.8 < result.std_error.mean().item() / spread < 1.2
    assert abs(result.mean - exact_log_likelihood(model, x[:1]).item()) < 5 * spread / 20 + spread**2
    assert result.mean_std_error == pytest.approx(spread / 20)


def test_impossible_samples() -> None:
    weights = likelihood.StreamingWeights(2, 3, torch.device("cpu"))
    weights.add(torch.tensor([[-math.inf, 0.0, -math.inf]]))
    weights.add(torch.tensor([[-math.inf, -math.inf, math.log(3.0)]]))
    result = weights.log_likelihood()
    torch.testing.assert_close(
        result.value, torch.tensor([-math.inf, -math.log(2.0), math.log(1.5)], dtype=torch.float64)
    )
    torch.testing.assert_close(result.ess, torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))
    weights = likelihood.StreamingWeights(3, 1, torch.device("cpu"))
    for log_weight in (0.0, math.inf, 1.0):
        weights.add(torch.tensor([[log_weight]]))
    assert weights.log_likelihood().value.item() == math.inf


def test_memory_does_not_grow_with_k(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bound the memory: only the tail of the weights grows, as sqrt(k), and it is smaller than a chunk here."""
    monkeypatch.setattr(likelihood, "SAMPLES_TAKEN_IN", 40)
    model, x = iw.models.DenseVAE(16, (4,), (8,)), torch.rand(4, 16)

    def largest_tensor(k: int) -> int:
        with torch.profiler.profile(profile_memory=True) as profile:
            iw.evaluate.log_likelihood(model, x, k, chunk_size=40, seed=1)
        return max(event.cpu_memory_usage for event in profile.events())

    largest_tensor(10)
    assert largest_tensor(400) == largest_tensor(80)


def test_mode_of_the_model_is_kept() -> None:
    model = iw.models.DenseVAE(16, (4,), (8,))
    model.encoder.eval()
    before = [module.training for module in model.modules()]
    iw.evaluate.log_likelihood(model, torch.rand(2, 16), 3)
    assert [module.training for module in model.modules()] == before


def test_progress_counts_every_pair() -> None:
    model, seen = iw.models.DenseVAE(16, (4,), (8,)), []
    iw.evaluate.log_likelihood(model, torch.rand(3, 16), 10, chunk_size=4, progress=seen.append)
    assert seen == [12, 12, 6]


def test_bad_arguments() -> None:
    model = iw.models.DenseVAE(16, (4,), (8,))
    with pytest.raises(ValueError, match="num_samples must be at least 1"):
        iw.evaluate.log_likelihood(model, torch.rand(3, 16), 0)
    with pytest.raises(ValueError, match="chunk_size must be at least 1"):
        iw.evaluate.log_likelihood(model, torch.rand(3, 16), 5, chunk_size=-1)
    with pytest.raises(ValueError, match="observation_offset must be at least 0, got -1"):
        iw.evaluate.log_likelihood(model, torch.rand(3, 16), 5, observation_offset=-1)


# --- batches ----------------------------------------------------------------------------------------------------


def wide_linear_gaussian() -> iw.models.VAE:
    """Return a linear Gaussian model whose importance weights are not all equal."""
    model = linear_gaussian()
    with torch.no_grad():
        model.encoder.log_std += 1.0
    return model


def test_a_loop_over_batches_gives_what_the_whole_does() -> None:
    model, x = wide_linear_gaussian(), torch.randn(1, 7, dtype=torch.float64).expand(10, 7)
    whole = iw.evaluate.log_likelihood(model, x, 20, seed=5).value
    parts, done = [], 0
    for batch in x.split(4):
        parts.append(iw.evaluate.log_likelihood(model, batch, 20, seed=5, observation_offset=done).value)
        done += len(batch)
    torch.testing.assert_close(torch.cat(parts), whole)
    assert len(torch.cat(parts).unique()) == 10  # each observation has its own noise


@pytest.mark.parametrize("size", [1, 3, 4, 10])
def test_a_loader_gives_what_the_whole_does(size: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "OBSERVATIONS_A_CHUNK", 4)
    model, x = wide_linear_gaussian(), torch.randn(10, 7, dtype=torch.float64)
    whole = iw.evaluate.log_likelihood(model, x, 30, seed=5)
    labeled = torch.utils.data.TensorDataset(x, torch.arange(10))
    for batches in (torch.utils.data.DataLoader(labeled, size), list(x.split(size)), iter(x.split(size))):
        found = iw.evaluate.log_likelihood(model, batches, 30, seed=5)
        for name in ("value", "std_error", "ess", "pareto_k"):
            assert torch.equal(getattr(found, name).nan_to_num(), getattr(whole, name).nan_to_num())


def test_what_is_no_loader_is_refused() -> None:
    model, x = linear_gaussian(), torch.randn(10, 7, dtype=torch.float64)
    for batches, error, message in (
        ([], ValueError, "x must have at least one batch, got none"),
        ([[1.0, 2.0]], TypeError, "batch 0 is list"),
        ({"x": x}, TypeError, "batch 0 is str"),
        ([x, x[:, :5]], ValueError, r"batch 1 is \(10, 5\), those before are \(b, 7\)"),
        (torch.utils.data.TensorDataset(x), TypeError, "x must be a torch.Tensor .* got TensorDataset"),
    ):
        with pytest.raises(error, match=message):
            iw.evaluate.log_likelihood(model, batches, 5)
    with pytest.raises(ValueError, match="context and mask require x to be one tensor"):
        iw.evaluate.log_likelihood(model, [x], 5, mask=torch.ones(7, dtype=torch.bool))


# --- journals ---------------------------------------------------------------------------------------------------


def test_an_interrupted_evaluation_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "OBSERVATIONS_A_CHUNK", 4)
    model, x = linear_gaussian(), torch.randn(10, 7, dtype=torch.float64)
    with torch.no_grad():
        model.encoder.log_std += 1.0
    journal = tmp_path / "evaluation.npz"
    seen: list[int] = []

    def stop_in_the_third_chunk(pairs: int) -> None:
        if sum(seen) >= 8 * 30:
            raise KeyboardInterrupt
        seen.append(pairs)

    with pytest.raises(KeyboardInterrupt):
        iw.evaluate.log_likelihood(model, x, 30, 10, progress=stop_in_the_third_chunk, journal=journal)
    assert sum(seen) == 8 * 30
    again: list[int] = []
    resumed = iw.evaluate.log_likelihood(model, x, 30, 10, progress=again.append, journal=journal)
    assert again == [4 * 30, 4 * 30, 20, 20, 20]
    with np.load(journal) as file:
        seed = int(file["seed"])
    whole = iw.evaluate.log_likelihood(model, x, 30, 10, seed)
    for name in ("value", "std_error", "ess", "pareto_k"):
        assert torch.equal(getattr(resumed, name).nan_to_num(), getattr(whole, name).nan_to_num())
    # Once more: nothing is left to do.
    assert torch.equal(iw.evaluate.log_likelihood(model, x, 30, journal=journal).value, whole.value)


def test_a_journal_of_something_else_is_refused(tmp_path: Path) -> None:
    model, x, journal = linear_gaussian(), torch.randn(3, 7, dtype=torch.float64), tmp_path / "evaluation.npz"
    iw.evaluate.log_likelihood(model, x, 5, seed=1, journal=journal)
    with pytest.raises(ValueError, match="seed must be 1 or None to resume from .*, got 2"):
        iw.evaluate.log_likelihood(model, x, 5, seed=2, journal=journal)
    mask = torch.ones(3, 7, dtype=torch.bool)
    for other, k, options in ((x + 1, 5, {}), (x, 6, {}), (x, 5, {"mask": mask})):
        with pytest.raises(ValueError, match="another evaluation"):
            iw.evaluate.log_likelihood(model, other, k, seed=1, journal=journal, **options)
    with torch.no_grad():
        next(model.parameters()).add_(1e-9)
    with pytest.raises(ValueError, match="another evaluation"):
        iw.evaluate.log_likelihood(model, x, 5, seed=1, journal=journal)
    journal.write_bytes(journal.read_bytes()[:100])
    with pytest.raises(ValueError, match="is not a journal of an evaluation"):
        iw.evaluate.log_likelihood(model, x, 5, seed=1, journal=journal)


def dense(**settings: object) -> iw.models.DenseVAE:
    torch.manual_seed(0)
    return iw.models.DenseVAE(4, (2,), (8,), **settings)


class Doubled(torch.nn.Module):
    """A module whose state_dict is the same as that of Identity."""

    def forward(self, value: torch.Tensor) -> torch.Tensor:
        return 2.0 * value


def with_activation(activation: torch.nn.Module) -> iw.models.DenseVAE:
    model = dense()
    model.encoder.hidden.append(activation)
    return model


def normal(mean: float) -> torch.distributions.Distribution:
    return torch.distributions.Independent(torch.distributions.Normal(torch.full((2,), mean), torch.ones(2)), 1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            lambda: dense(likelihood=iw.likelihoods.Gaussian(1.0)),
            lambda: dense(likelihood=iw.likelihoods.Gaussian(0.1)),
        ),
        (lambda: dense(prior=normal(0.0)), lambda: dense(prior=normal(1.0))),
        (lambda: with_activation(torch.nn.ReLU()), lambda: with_activation(torch.nn.Tanh())),
        (lambda: with_activation(torch.nn.Identity()), lambda: with_activation(Doubled())),
    ],
    ids=["scale", "prior", "activation", "code"],
)
def test_a_journal_tells_models_of_one_state_dict_apart(one, other, tmp_path: Path) -> None:
    x, journal = torch.linspace(0.0, 1.0, 20).view(5, 4), tmp_path / "evaluation.npz"
    for (name, left), (_, right) in zip(one().state_dict().items(), other().state_dict().items(), strict=True):
        assert torch.equal(left, right), name
    first = iw.evaluate.log_likelihood(one(), x, 50, seed=1, journal=journal)
    assert not torch.allclose(first.value, iw.evaluate.log_likelihood(other(), x, 50, seed=1).value)
    with pytest.raises(ValueError, match="another evaluation: the model's log-weights"):
        iw.evaluate.log_likelihood(other(), x, 50, seed=1, journal=journal)
    # What rounding alone changes, and what evaluation does not see, is the same model.
    same = one().train()
    same.encoder.hidden.append(torch.nn.Dropout(0.5))
    assert torch.equal(iw.evaluate.log_likelihood(same, x, 50, 7, journal=journal).value, first.value)


def test_a_journal_of_a_loader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(likelihood, "OBSERVATIONS_A_CHUNK", 4)
    model, x, journal = wide_linear_gaussian(), torch.randn(10, 7, dtype=torch.float64), tmp_path / "evaluation.npz"

    def broken() -> Iterator[torch.Tensor]:
        yield x[:6]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        iw.evaluate.log_likelihood(model, broken(), 20, seed=3, journal=journal)
    with np.load(journal) as file:
        assert file["ends"].tolist() == [4]
    whole = iw.evaluate.log_likelihood(model, x, 20, seed=3)
    done: list[int] = []
    resumed = iw.evaluate.log_likelihood(model, x.split(3), 20, progress=done.append, journal=journal)
    assert torch.equal(resumed.value, whole.value)
    assert torch.equal(iw.evaluate.log_likelihood(model, x, 20, journal=journal).value, whole.value)
    for other in (x.flip(0), x[:8]):
        with pytest.raises(ValueError, match="another evaluation: the data"):
            iw.evaluate.log_likelihood(model, other.split(3), 20, journal=journal)
    with pytest.raises(ValueError, match="another evaluation: .* observation_offset"):
        iw.evaluate.log_likelihood(model, x, 20, observation_offset=10, journal=journal)


def test_a_journal_of_an_earlier_version_is_refused(tmp_path: Path) -> None:
    journal = tmp_path / "evaluation.npz"
    np.savez(journal, subject="0", seed=1, value=[0.0], std_error=[0.0], ess=[0.0], pareto_k=[0.0])
    with pytest.raises(ValueError, match="written by an earlier version"):
        iw.evaluate.log_likelihood(linear_gaussian(), torch.randn(3, 7, dtype=torch.float64), 5, journal=journal)


# --- rows at once -----------------------------------------------------------------------------------------------


def test_rows_go_by_the_device_and_its_free_memory() -> None:
    model, x = iw.models.DenseVAE(784), torch.zeros(256, 784)
    row = rows.bytes_of_row(model, x)
    assert row == 16 * 784 * 4
    assert rows.rows_at_once("cpu", 0, row) == 4096
    # On a GPU of 80 GB, 1000 samples of 256 observations and more; on one of 8 GB a part of them; anywhere one row.
    assert rows.rows_at_once("cuda", 79 * 2**30, row) == 2**18 >= 1000 * 256
    assert rows.rows_at_once("cuda", 6 * 2**30, row) == 6 * 2**28 // row == 32099
    assert rows.rows_at_once("cuda", 1000, row) == 1
    assert rows.bytes_of_row(dense(likelihood=iw.likelihoods.Categorical(256)), x[:, :4]) == 16 * 4 * 256 * 4
    assert rows.bytes_of_row(dense().double(), x[:, :4]) == 16 * 8 * 8


def test_half_the_rows_where_memory_is_short(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = wide_linear_gaussian(), torch.randn(6, 7, dtype=torch.float64)
    whole = iw.evaluate.log_likelihood(model, x, 101, chunk_size=101, seed=5)
    counts: list[int] = []
    log_weights = model.log_weights

    def short_of_memory(x: torch.Tensor, count: int, *arguments: object, **options: object) -> torch.Tensor:
        counts.append(count)
        if count > 30:
            raise torch.OutOfMemoryError
        return log_weights(x, count, *arguments, **options)

    monkeypatch.setattr(model, "log_weights", short_of_memory)
    monkeypatch.setattr(likelihood, "OBSERVATIONS_A_CHUNK", 3)
    found = iw.evaluate.log_likelihood(model, x, 101, seed=5)
    torch.testing.assert_close(found.value, whole.value)
    assert counts == [101, 50, 25, 25, 25, 25, 1, 25, 25, 25, 25, 1]
    with pytest.raises(torch.OutOfMemoryError):
        iw.evaluate.log_likelihood(model, x, 101, chunk_size=50, seed=5)
