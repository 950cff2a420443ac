from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from linear_gaussian import exact_log_likelihood, linear_gaussian

import iwae_fast as iw


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
    monkeypatch.setattr(iw.evaluate, "OBSERVATIONS_A_CHUNK", 4)
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
    weights = iw.evaluate.StreamingWeights(2, 3, torch.device("cpu"))
    weights.add(torch.tensor([[-math.inf, 0.0, -math.inf]]))
    weights.add(torch.tensor([[-math.inf, -math.inf, math.log(3.0)]]))
    result = weights.log_likelihood()
    torch.testing.assert_close(
        result.value, torch.tensor([-math.inf, -math.log(2.0), math.log(1.5)], dtype=torch.float64)
    )
    torch.testing.assert_close(result.ess, torch.tensor([0.0, 1.0, 1.0], dtype=torch.float64))
    weights = iw.evaluate.StreamingWeights(3, 1, torch.device("cpu"))
    for log_weight in (0.0, math.inf, 1.0):
        weights.add(torch.tensor([[log_weight]]))
    assert weights.log_likelihood().value.item() == math.inf


def test_memory_does_not_grow_with_k(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the tail of the weights does, as the root of k: it is smaller here than what a chunk needs."""
    monkeypatch.setattr(iw.evaluate, "SAMPLES_TAKEN_IN", 40)
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
    with pytest.raises(TypeError, match="x must be float32.*int64"):
        iw.evaluate.log_likelihood(model, torch.ones(3, 16, dtype=torch.int64))


def test_an_interrupted_evaluation_goes_on_where_it_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iw.evaluate, "OBSERVATIONS_A_CHUNK", 4)
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
    assert again == [8 * 30, 20, 20, 20]
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
    with pytest.raises(ValueError, match="with seed 1, not 2"):
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
    with pytest.raises(ValueError, match="no journal of an evaluation"):
        iw.evaluate.log_likelihood(model, x, 5, seed=1, journal=journal)
