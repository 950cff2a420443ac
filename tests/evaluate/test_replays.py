"""Evaluations whose chunks are replays of a graph, recorded on the CPU; and the values that the host reads."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from host_recorder import TapeRecorder
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import iwae_fast as iw
from iwae_fast.evaluate import likelihood, replays

READS = {"aten::_local_scalar_dense", "aten::nonzero", "aten::is_nonzero", "aten::item", "aten::equal"}
"""Operations for which the host waits for a device."""


class Reads(TorchDispatchMode):
    """A mode that counts the operations that make the host wait, and copies to it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func._schema.name
        if name in READS or (name == "aten::_to_copy" and (kwargs or {}).get("device") is not None):
            self.seen.append(name)
        return func(*args, **(kwargs or {}))


def models() -> dict[str, Any]:
    torch.manual_seed(0)
    return {
        "one layer": iw.models.DenseVAE(30, (4,), ((8,),)),
        "two layers": iw.models.DenseVAE(30, (4, 3), ((8,), (8,))),
        "gaussian": iw.models.DenseVAE(30, (4,), ((8,),), likelihood="gaussian"),
    }


def recorder_in_place_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> TapeRecorder:
    recorder = TapeRecorder()
    monkeypatch.setattr(replays, "unavailable", lambda _: None)
    monkeypatch.setattr(replays, "CudaGraphs", lambda _: recorder)
    return recorder


def reads(model: Any, x: torch.Tensor, num_samples: int) -> list[str]:
    with Reads() as mode:
        iw.evaluate.log_likelihood(model, x, num_samples, chunk_size=8, seed=1)
    return mode.seen


@pytest.mark.parametrize("name", models())
def test_a_chunk_does_not_wait_for_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Count what an evaluation reads: the same for one chunk and for many, of samples and of observations."""
    model, x = models()[name], torch.rand(12, 30).round()
    iw.evaluate.log_likelihood(model, x, 8)  # the model checks the first observations that it meets
    one = reads(model, x, 8)
    assert len(one) == (1 if name == "gaussian" else 2)  # the seed, on the host; and whether x is in the support
    assert reads(model, x, 80) == one
    monkeypatch.setattr(likelihood, "OBSERVATIONS_A_CHUNK", 4)
    assert reads(model, x, 80) == one


class Reading(nn.Module):
    """A decoder that reads a value on the host."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 30)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        output = self.layer(z)
        return output if output.sum().item() < 1e9 else -output


def test_a_value_that_is_read_is_counted() -> None:
    model = iw.models.VAE(iw.models.DenseVAE(30, (4,), ((8,),)).encoder, Reading(), "bernoulli")
    x = torch.rand(12, 30).round()
    iw.evaluate.log_likelihood(model, x, 8)
    assert len(reads(model, x, 80)) == len(reads(model, x, 8)) + 9


@pytest.mark.parametrize("name", models())
def test_replays_give_the_same_bits(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = models()[name], torch.rand(12, 30).round()
    settings: dict[str, Any] = {"chunk_size": 4, "seed": 3, "observation_offset": 5}
    monkeypatch.setattr(likelihood, "OBSERVATIONS_A_CHUNK", 8)
    plain = iw.evaluate.log_likelihood(model, x, 50, **settings)
    recorder = recorder_in_place_of_a_gpu(monkeypatch)
    found = iw.evaluate.log_likelihood(model, x, 50, **settings)
    for field in ("value", "std_error", "ess", "pareto_k"):
        assert torch.equal(getattr(found, field), getattr(plain, field))
    # 12 chunks of 4 samples and one of 2, for each of two chunks of observations. The fits of their tails have two
    # shapes, and are called once each.
    assert (recorder.rehearsed, recorder.recorded, recorder.replayed) == (4 + 2, 2, 20)


def test_the_fit_of_the_tails_is_replayed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Evaluate seven chunks of two observations; the chunks of samples are too few for a graph."""
    model, x = models()["one layer"], torch.rand(14, 30).round()
    monkeypatch.setattr(likelihood, "OBSERVATIONS_A_CHUNK", 2)
    plain = iw.evaluate.log_likelihood(model, x, 200, seed=3).pareto_k
    recorder = recorder_in_place_of_a_gpu(monkeypatch)
    assert torch.equal(iw.evaluate.log_likelihood(model, x, 200, seed=3).pareto_k, plain)
    assert len(plain.unique()) == 14
    assert (recorder.rehearsed, recorder.recorded, recorder.replayed) == (2, 1, 5)


def test_what_is_large_or_short_is_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = recorder_in_place_of_a_gpu(monkeypatch)
    model, x = models()["one layer"], torch.rand(12, 30).round()
    iw.evaluate.log_likelihood(model, x, 4 * (replays.FEWEST_CHUNKS - 1), chunk_size=4)
    monkeypatch.setattr(replays, "MOST_ROWS", 4 * len(x) - 1)
    iw.evaluate.log_likelihood(model, x, 100, chunk_size=4)
    assert recorder.recorded == recorder.forgotten == 0
    monkeypatch.setattr(replays, "MOST_ROWS", 4 * len(x))
    iw.evaluate.log_likelihood(model, x, 100, chunk_size=4)
    assert recorder.recorded == 1


class Refusing(TapeRecorder):
    """A recorder whose rehearsals find a reason."""

    def rehearse(self, function: Any) -> tuple[Any, str | None]:
        return super().rehearse(function)[0], "it waits for the device"


def test_what_cannot_be_captured_is_evaluated_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    model, x = models()["one layer"], torch.rand(12, 30).round()
    plain = iw.evaluate.log_likelihood(model, x, 50, chunk_size=4, seed=3).value
    recorder_in_place_of_a_gpu(monkeypatch)
    refusing = Refusing()
    monkeypatch.setattr(replays, "CudaGraphs", lambda _: refusing)
    assert torch.equal(iw.evaluate.log_likelihood(model, x, 50, chunk_size=4, seed=3).value, plain)
    assert (refusing.rehearsed, refusing.recorded) == (3, 0)  # and the fit of the tails once


@pytest.mark.parametrize("obstacle", ["hooks", "shared weights", "distribution"])
def test_obstacles(obstacle: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = models()["one layer"]
    x = torch.rand(12, 30).round()
    if obstacle == "hooks":
        model.decoder.register_forward_hook(lambda *_: None)
    elif obstacle == "shared weights":
        monkeypatch.setattr(type(model), "takes_sample_indices", False)
    else:
        monkeypatch.setattr(replays, "DiagonalGaussian", str)
    recorder = recorder_in_place_of_a_gpu(monkeypatch)
    iw.evaluate.log_likelihood(model, x, 50, chunk_size=4, seed=3)
    assert recorder.recorded == recorder.forgotten == 0
