"""Tests of training by recorded steps, with a tape in place of CUDA graphs: bitwise equal to plain training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from functorch.compile import make_boxed_func
from host_recorder import TapeRecorder
from same_run import assert_same_run
from torch._dynamo.backends.common import aot_autograd

from iwae_fast import data
from iwae_fast.capture import compiled
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.protocols import passes
from iwae_fast.experiments.train import training
from iwae_fast.experiments.train.reporter import Reporter
from iwae_fast.experiments.train.runs import Run, create_run, open_run


@pytest.fixture(scope="module")
def digits() -> data.ImageData:
    """Return 65 digits: with batches of 10, an epoch has six full steps and one with half a batch."""
    images = data.load("digits")
    return replace(images, train=images.train[:65], test=images.test[:20])


def settings(**changes: object) -> TrainConfig:
    small = {"hidden": (8,), "latent": 3, "k": 4, "batch_size": 10, "epochs": 5, "seed": 11}
    return TrainConfig.preset("digits", **{**small, **changes})


def trainer(folder: Path, images: data.ImageData, config: TrainConfig, recorder: TapeRecorder | None = None):
    return training.Trainer(config, create_run(folder, config), images, recorder)


def train(folder: Path, images: data.ImageData, config: TrainConfig, recorder: TapeRecorder | None = None) -> Run:
    made = trainer(folder, images, config, recorder)
    assert made.fit(Reporter())
    return made.run


@pytest.mark.parametrize("at_once", [1, 3, 6])
def test_recorded_steps_leave_the_bits_of_single_ones(digits, tmp_path, monkeypatch, at_once: int) -> None:
    monkeypatch.setattr("iwae_fast.experiments.train.steps.MOST_STEPS", at_once)
    recorder = TapeRecorder()
    recorded = train(tmp_path / "recorded", digits, settings(epochs=7), recorder)
    assert_same_run(train(tmp_path / "eager", digits, settings(epochs=7)), recorded)
    assert recorder.recorded == 2  # whole batches, one or several at a time, and the last of an epoch
    assert recorder.replayed == 7 * (6 // at_once + 1) - recorder.rehearsed


@pytest.mark.parametrize(
    "changes",
    [
        {"estimator": "dreg", "budget": 2},
        {"chunk_size": 3, "estimator": "stl"},
        {"latent": (3, 2), "hidden": ((8,), (5,)), "estimator": "gdreg"},
        {"bound": "tvo"},
        {"bound": "miwae", "groups": 2},
        {"prior": "mixture", "likelihood": "gaussian"},
        {"network": "iwaer"},
        {"lr_schedule": "cosine", "lr_warmup": 5, "max_norm": 0.5},
    ],
    ids=str,
)
def test_objectives_and_networks(digits, tmp_path, changes: dict) -> None:
    config, recorder = settings(epochs=4, **changes), TapeRecorder()
    recorded = train(tmp_path / "recorded", digits, config, recorder)
    assert recorder.replayed
    assert_same_run(train(tmp_path / "eager", digits, config), recorded)


@pytest.mark.parametrize("protocol", ["paper", "code"])
def test_rates_by_stage(digits, tmp_path, protocol: str) -> None:
    """Start the second stage after recording: replays use its learning rate."""
    config, recorder = settings(protocol=protocol, epochs=passes(3), batch_size=10), TapeRecorder()
    recorded = trainer(tmp_path / "recorded", digits, config, recorder)
    assert recorded.fit(Reporter())
    assert recorder.recorded == 2
    assert_same_run(train(tmp_path / "eager", digits, config), recorded.run)
    constant = train(tmp_path / "constant", digits, replace(config, stages=1))
    with pytest.raises(AssertionError):
        assert_same_run(constant, recorded.run)


@pytest.mark.parametrize("first", [None, TapeRecorder])
@pytest.mark.parametrize("taken", [2, 5, 7, 16])
def test_going_on_in_the_middle_with_and_without_recordings(digits, tmp_path, monkeypatch, first, taken: int) -> None:
    monkeypatch.setattr("iwae_fast.experiments.train.steps.MOST_STEPS", 3)
    whole = train(tmp_path / "whole", digits, settings())
    broken = trainer(tmp_path / "broken", digits, settings(), first and first())
    assert not broken.fit(Reporter(), stop=lambda: broken.step >= taken)
    run, checkpoint = open_run(broken.run.folder)
    again = training.Trainer(checkpoint.config, run, digits, None if first else TapeRecorder())
    again.restore(checkpoint)
    assert again.fit(Reporter())
    assert_same_run(whole, run)


def test_a_graph_of_several_steps_never_crosses_an_epoch(digits, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("iwae_fast.experiments.train.steps.MOST_STEPS", 4)
    made = trainer(tmp_path / "run", digits, settings(), TapeRecorder())
    taken = []
    for epoch in (1, 2):
        while made.step < epoch * made.steps_per_epoch:
            before = made.step
            made.take_steps()
            taken.append(made.step - before)
        made._end_epoch()
    assert taken == [4, 1, 1, 1] * 2


def test_how_steps_are_taken_is_told(digits, tmp_path) -> None:
    _, checkpoint = open_run(train(tmp_path / "eager", digits, settings(epochs=1)).folder)
    assert checkpoint.how == "one by one: the model is on cpu, but CUDA graphs require a CUDA device"
    made = trainer(tmp_path / "recorded", digits, settings(), TapeRecorder())
    assert made.steps.how is None
    made.fit(Reporter())
    assert open_run(made.run.folder)[1].how == "captured as CUDA graphs of up to 6"
    off = trainer(tmp_path / "off", digits, settings(capture=False), TapeRecorder())
    assert off.steps.reason == "capture is switched off"
    assert settings(capture=False).differences(settings()) == []


class Failing(TapeRecorder):
    """A recorder that fails after successful rehearsals."""

    def record(self, function: Callable[[], Any]) -> Any:
        raise RuntimeError(f"no more\nof {function}")


def test_what_cannot_be_recorded_is_taken_step_by_step(digits, tmp_path) -> None:
    made = trainer(tmp_path / "failing", digits, settings(), Failing())
    assert made.fit(Reporter())
    assert made.steps.how == "one by one: RuntimeError: no more"
    assert_same_run(train(tmp_path / "eager", digits, settings()), made.run)
    warming = trainer(tmp_path / "warming", digits, settings(kl_warmup=9), TapeRecorder())
    assert warming.steps.reason == "kl_weight is a schedule: its values are computed on the host"
    assert warming.fit(Reporter())


def test_means_and_diagnostics_are_those_of_the_replay(digits, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("iwae_fast.experiments.train.steps.MOST_STEPS", 2)
    eager = trainer(tmp_path / "eager", digits, settings())
    recorded = trainer(tmp_path / "recorded", digits, settings(), TapeRecorder())
    for epoch in range(3):
        for made in (eager, recorded):
            while made.step < 6 + 7 * epoch:
                made.take_steps()
        assert torch.equal(eager.steps.objective.last.value, recorded.steps.objective.last.value)
        assert eager.means.means() == recorded.means.means()
        for made in (eager, recorded):
            made.take_steps()
            made._end_epoch()


@pytest.fixture
def compiled_calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Any]]:
    """Compile to torch's operations, which a tape records; return the list of compiled graphs."""
    graphs: list[Any] = []

    def compile_graph(graph: torch.fx.GraphModule, _: Any) -> Any:
        graphs.append(graph)
        return make_boxed_func(graph.forward)

    torch._dynamo.reset()
    monkeypatch.setattr(compiled, "BACKEND", aot_autograd(fw_compiler=compile_graph))
    yield graphs
    torch._dynamo.reset()


def test_compiled_training_is_recorded_and_goes_on_without(digits, tmp_path, compiled_calls) -> None:
    images = replace(digits, train=digits.train[:60])  # no smaller last batch, which would be compiled too
    whole = train(tmp_path / "eager", images, settings(epochs=4))
    first = trainer(tmp_path / "compiled", images, settings(epochs=4, compile=True), TapeRecorder())
    assert not first.fit(Reporter(), stop=lambda: first.step >= 20)
    assert first.steps.how == "captured as CUDA graphs of up to 6, with networks by torch.compile"
    assert len(compiled_calls) == 4  # encoder and decoder, forward and backward
    run, checkpoint = open_run(first.run.folder)
    assert checkpoint.model.keys() == open_run(whole.folder)[1].model.keys()
    again = training.Trainer(replace(checkpoint.config, compile=False), run, images)
    again.restore(checkpoint)
    assert again.fit(Reporter())
    torch.testing.assert_close(open_run(run.folder)[1].model, open_run(whole.folder)[1].model)


def test_networks_that_cannot_be_compiled_are_refused(digits) -> None:
    with pytest.raises(ValueError, match="compile must be False: .* RandomWeightsVAE draws the weights"):
        training.check(settings(network="iwaer", compile=True), digits)
