"""Tests of the papers' training protocols: stages, optimizers, initial weights."""

import math
from dataclasses import replace

import pytest
import torch
from same_run import assert_same_run
from torch import nn

import iwae_fast as iw
from iwae_fast import data
from iwae_fast.backends import ENVIRONMENT, MISSING
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.optimizers import PublishedAdam, allocate_state
from iwae_fast.experiments.protocols import PROTOCOLS, passes, stage, uniform_by_inputs
from iwae_fast.experiments.train import training
from iwae_fast.experiments.train.pixels import split
from iwae_fast.experiments.train.reporter import Reporter
from iwae_fast.experiments.train.runs import create_run, open_run


def test_stages_take_powers_of_three() -> None:
    assert [passes(count) for count in range(9)] == [0, 1, 4, 13, 40, 121, 364, 1093, 3280]
    lengths = [0] * 8
    for epoch in range(3280):
        lengths[stage(epoch)] += 1
    assert lengths == [3**i for i in range(8)]
    assert stage(10**6) == 7


def test_learning_rates_are_the_papers() -> None:
    paper, code = PROTOCOLS["paper"], PROTOCOLS["code"]
    firsts = [passes(i) for i in range(8)]
    assert [paper.factor(epoch) for epoch in firsts] == [10 ** (-i / 7) for i in range(8)]
    assert [1e-3 * code.factor(epoch) for epoch in firsts] == pytest.approx(
        [1e-4 * rate for rate in (10, 7.2, 5.2, 3.7, 2.7, 1.9, 1.4, 1)]
    )
    assert PROTOCOLS["constant"].factor(5000) == 1.0
    assert paper.factor(14, stages=3) == paper.factor(12) != paper.factor(14)  # of a run with three stages


def test_presets_of_protocols() -> None:
    paper, code = (TrainConfig.preset("mnist", protocol=name) for name in ("paper", "code"))
    assert (paper.epochs, paper.batch_size, paper.learning_rate, paper.validation) == (3280, 20, 1e-3, 0)
    assert (code.validation, code.objective().reduction, paper.objective().reduction) == (400, "sum", "mean")
    assert TrainConfig.preset("omniglot", protocol="code").validation == 24345 - 23000
    assert TrainConfig.preset("omniglot", protocol="dd2434").batch_size == 45
    iwaer = TrainConfig.preset("mnist", protocol="iwaer", network="iwaer")
    assert (iwaer.hidden, iwaer.latent, iwaer.k, iwaer.batch_size, iwaer.epochs) == (((400,),), (20,), 25, 100, 500)
    assert TrainConfig.preset("mnist", protocol="paper", latent=(100, 50)).hidden == ((200, 200), (100, 100))
    with pytest.raises(ValueError, match="unknown protocol 'thesis': choose one of constant, paper"):
        TrainConfig.preset("mnist", protocol="thesis")


def test_published_adam_written_out() -> None:
    start, target = torch.randn(5, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
    parameter = nn.Parameter(start.clone())
    optimizer = PublishedAdam([parameter], lr=0.01, betas=(0.99, 0.999), eps=1e-4)
    expected, m, v = start.clone(), torch.zeros(5).double(), torch.ones(5).double()
    for t in range(1, 6):
        optimizer.zero_grad()
        (parameter - target).square().sum().backward()
        optimizer.step()
        gradient = 2 * (expected - target)
        m, v = 0.99 * m + 0.01 * gradient, 0.999 * v + 0.001 * gradient**2
        rate = 0.01 * math.sqrt(1 - 0.999**t) / (1 - 0.99**t)
        expected = expected - rate * m / (v.sqrt() + 1e-4)
        torch.testing.assert_close(parameter.detach(), expected, rtol=1e-12, atol=1e-12)
    assert optimizer.step(lambda: torch.tensor(3.0)) == 3.0


def test_torchs_adam_and_ours_go_on_from_each_others_checkpoints(monkeypatch: pytest.MonkeyPatch) -> None:
    """Copy the state by its names, as a checkpoint does, between the optimizers of two machines."""
    found = []
    for names in (("reference", "reference"), ("reference", ""), ("", "reference"), ("", "")):
        parameter = nn.Parameter(torch.linspace(-1.0, 1.0, 9))
        state: dict[str, torch.Tensor] = {}
        for half, name in enumerate(names):
            monkeypatch.setenv(ENVIRONMENT, name)
            optimizer = PROTOCOLS["paper"].optimizer([parameter], 0.01, None)
            assert type(optimizer) is (torch.optim.Adam if name or MISSING["cpu"] else iw.optim.Adam)
            allocate_state(optimizer)
            for key, tensor in state.items():
                optimizer.state[parameter][key].copy_(tensor)
            for step in range(3):
                parameter.grad = torch.sin(torch.arange(9.0) + 3 * half + step)
                optimizer.step()
            state = {key: tensor.clone() for key, tensor in optimizer.state[parameter].items()}
        found.append(parameter.detach())
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-6, atol=1e-7)


def test_published_adam_goes_on_from_a_loaded_state_and_where_a_gradient_is_missing() -> None:
    """Count the steps of each parameter, also after its state was loaded."""
    gradients = torch.randn(6, 2, 3)

    def run(loaded: bool, together: bool) -> list[torch.Tensor]:
        parameters = [nn.Parameter(torch.ones(3)) for _ in range(2)]
        optimizer = PublishedAdam(parameters, lr=0.01)
        for index, pair in enumerate(gradients):
            if loaded and index == 3:
                state = optimizer.state_dict()
                optimizer = PublishedAdam(parameters)
                optimizer.load_state_dict(state)
            for parameter, gradient in zip(parameters, pair, strict=True):
                parameter.grad = gradient.clone()
            if not together and index == 0:
                parameters[1].grad = None
            optimizer.step()
        return [parameter.detach() for parameter in parameters]

    for together in (True, False):
        torch.testing.assert_close(run(True, together), run(False, together), rtol=0, atol=0)
    late = PublishedAdam([nn.Parameter(torch.ones(3))], lr=0.01)
    for gradient in gradients[1:, 1]:
        late.param_groups[0]["params"][0].grad = gradient.clone()
        late.step()
    torch.testing.assert_close(run(False, False)[1], late.param_groups[0]["params"][0].detach(), rtol=0, atol=0)


def test_uniform_by_inputs() -> None:
    torch.manual_seed(0)
    model = iw.models.DenseVAE(64, (16,), (100,))
    uniform_by_inputs(model)
    for layer in (module for module in model.modules() if isinstance(module, nn.Linear)):
        bound = 1 / math.sqrt(layer.in_features)
        assert 0.9 * bound < layer.weight.abs().max() <= bound
        assert not layer.bias.any()


@pytest.fixture(scope="module")
def digits() -> data.ImageData:
    images = data.load("digits")
    return replace(images, train=images.train[:60], test=images.test[:20])


def config(**changes: object) -> TrainConfig:
    small = {"hidden": (8,), "latent": 3, "k": 3, "batch_size": 20, "epochs": passes(2), "seed": 5}
    return TrainConfig.preset("digits", **{**small, **changes})


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_resuming_leaves_no_trace(digits: data.ImageData, tmp_path, protocol: str) -> None:
    """Resume at the end of a stage, and in the middle of one."""
    settings = config(protocol=protocol, validation=10)
    whole = create_run(tmp_path / "whole", settings)
    assert training.train(settings, whole, digits)
    for steps in (3, 5):
        broken = create_run(tmp_path / f"broken-{steps}", settings)
        answers = iter([False] * (steps - 1) + [True])
        assert not training.train(settings, broken, digits, stop=lambda answers=answers: next(answers))
        run, checkpoint = open_run(broken.folder)
        assert training.train(settings, run, digits, resume_from=checkpoint)
        assert_same_run(whole, run)


def test_a_stage_has_its_rate(digits: data.ImageData, tmp_path) -> None:
    settings = config(protocol="paper")
    trainer = training.Trainer(settings, create_run(tmp_path / "run", settings), digits)
    rates = []

    def stop() -> bool:
        rates.append(float(trainer.optimizer.param_groups[0]["lr"]))
        return False

    trainer.fit(Reporter(), stop)  # which asks after every step
    assert rates == pytest.approx([1e-3] * 3 + [1e-3 * 10 ** (-1 / 7)] * 9)
    assert all(stage(epoch) < 2 for epoch in range(settings.epochs))


def test_what_is_held_out_is_not_trained_on(digits: data.ImageData, tmp_path) -> None:
    settings = config(validation=20, epochs=2)
    run = create_run(tmp_path / "run", settings)
    trainer = training.Trainer(settings, run, digits)
    train, held_out = split(digits, 20)
    assert torch.equal(trainer.images.take(torch.arange(len(train))), train)
    assert trainer.validation.observations.shape == (20, 64)
    assert sorted([*train.tolist(), *held_out.tolist()]) == sorted(digits.train.tolist())
    assert not torch.equal(held_out, digits.train[-20:])  # which may be all of one class
    first = trainer.validation.bound(trainer.model)
    assert first == trainer.validation.bound(trainer.model)  # the same pixels and noise each time
    own = replace(digits, valid=digits.test)
    assert len(training.Trainer(config(), run, own).validation.observations) == 20
    assert training.Trainer(config(), run, digits).validation.bound(trainer.model) is None
    with pytest.raises(ValueError, match="validation must be below the 60 training observations"):
        training.Trainer(config(validation=60), run, digits)
