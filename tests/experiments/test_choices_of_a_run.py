"""Tests of the options of a run: each network, likelihood and prior trains, is restored and is reported."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from iwae_fast import data
from iwae_fast.data import DataError, ImageData
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.evaluate.results import evaluate_run
from iwae_fast.experiments.report import write_run_report
from iwae_fast.experiments.train import training
from iwae_fast.experiments.train.runs import continue_elsewhere, create_run, open_run, trained_model
from iwae_fast.likelihoods import LIKELIHOODS

KINDS = [
    {"network": "iwaer"},
    {"network": "iwaer-rec"},
    {"prior": "vamp"},
    {"prior": "vamp", "latent": (4, 3), "hidden": ((8,), (6,))},
    {"prior": "mixture"},
    *({"likelihood": name} for name in LIKELIHOODS),
]

REPORTED = ({"network": "iwaer"}, {"likelihood": "negative-binomial"})
"""A page takes a second."""


@pytest.fixture(scope="module")
def digits() -> ImageData:
    images = data.load("digits")
    return replace(images, train=images.train[:50], test=images.test[:15])


def config(**changes: object) -> TrainConfig:
    small = {"hidden": (8,), "latent": 3, "k": 3, "batch_size": 20, "epochs": 2, "seed": 5}
    return TrainConfig.preset("digits", **{**small, **changes})


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_it_trains_comes_back_and_is_reported(digits: ImageData, tmp_path, kind: dict) -> None:
    settings = config(**kind)
    images = digits
    if settings.likelihood in ("continuous-bernoulli", "beta"):
        images = replace(digits, grey_levels=False)
    elif settings.likelihood != "bernoulli":  # counts and classes
        images = replace(digits, train=digits.train * 16, test=digits.test * 16, grey_levels=False)
    run = create_run(tmp_path / "run", settings)
    trainer = training.Trainer(settings, run, images)
    before = {name: parameter.clone() for name, parameter in trainer.model.named_parameters()}
    assert trainer.fit(training.Reporter())
    unchanged = [name for name, p in trainer.model.named_parameters() if torch.equal(p, before[name])]
    assert not unchanged
    _, checkpoint = open_run(run.folder)
    model = trained_model(checkpoint)
    torch.testing.assert_close(dict(model.state_dict()), checkpoint.model, rtol=0, atol=0)
    found = evaluate_run(run, checkpoint, model, images, k=5, train_observations=5, pruned_observations=5)
    assert found["nll"] == pytest.approx(-evaluated(model, images, found["seed"]), abs=1e-4)
    if kind in REPORTED:
        write_run_report(run, checkpoint, model, images)
        assert "<h2>Active units</h2>" in run.report.read_text()


def evaluated(model: torch.nn.Module, images: ImageData, seed: int) -> float:
    from iwae_fast.experiments.train.fixed_pixels import fixed_test_images

    log_weights = model.log_weights(fixed_test_images(images), 5, seed).detach().double()
    return (torch.logsumexp(log_weights, 0) - torch.log(torch.tensor(5.0))).mean().item()


def test_what_would_stop_a_run_is_found_before_it(digits: ImageData) -> None:
    with pytest.raises(ValueError, match="random weights require a bound"):
        training.check(config(network="iwaer", bound="jvi"), digits)
    with pytest.raises(ValueError, match="does not have a gradient for the distribution"):
        training.check(config(network="iwaer", estimator="rws"), digits)
    with pytest.raises(ValueError, match="validation must be below"):
        training.check(config(validation=50), digits)
    training.check(config(), digits)


def test_other_likelihoods_see_the_data_as_they_are() -> None:
    assert config().load_data().grey_levels
    assert not config(likelihood="continuous-bernoulli").load_data().grey_levels


@pytest.mark.parametrize(
    ("values", "likelihood", "message"),
    [
        ([[-1.0, 2.5]], "bernoulli", "likelihood 'bernoulli' does not support the value -1 in .*mine.npy"),
        ([[0.2, 2.5]], "continuous-bernoulli", "does not support the value 2.5"),
        ([[3.0, -2.0]], "negative-binomial", "does not support the value -2"),
        ([[3.0, 0.5]], "zero-inflated-negative-binomial", "does not support the value 0.5"),
        ([[3.0, 256.0]], "categorical", "does not support the value 256"),
    ],
)
def test_data_without_a_probability_are_refused(tmp_path, values: list, likelihood: str, message: str) -> None:
    path = tmp_path / "mine.npy"
    np.save(path, np.array(values * 12))
    with pytest.raises(DataError, match=message):
        TrainConfig.preset(str(path), likelihood=likelihood).load_data()


def test_bytes_are_levels_or_whole_numbers(tmp_path) -> None:
    path = tmp_path / "bytes.npy"
    np.save(path, np.full((12, 4), 51, np.uint8))
    taken = {name: TrainConfig.preset(str(path), likelihood=name).load_data() for name in LIKELIHOODS}
    for name, images in taken.items():
        whole = LIKELIHOODS[name]().support.is_discrete
        assert (images.train[:] == (51.0 if whole else 0.2)).all()
        assert images.grey_levels == (name == "bernoulli")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network": "iwaer", "protocol": "dd2434"}, "initializes layers that network 'iwaer' does not have"),
        ({"stages": 9}, "stages must be at most 8"),
        ({"network": "transformer"}, "unknown network 'transformer': choose one of dense, iwaer, iwaer-rec"),
        ({"likelihood": "poison"}, "unknown likelihood 'poison': did you mean 'poisson'"),
        (
            {"schema": '[["a", "real"]]'},
            "schema has an effect only with likelihood 'mixed', got likelihood",
        ),
        ({"log_std_bounds": "1"}, "log_std_bounds must be two numbers such as -5,3, got '1'"),
        ({"log_std_bounds": "3,-5"}, "log_std_bounds must be two finite numbers, the lower one first"),
        ({"prior": "flat"}, "unknown prior 'flat'"),
        ({"network": "iwaer", "latent": (4, 2), "hidden": ((8,), (6,))}, "latent must be a single size"),
        (
            {"network": "iwaer", "likelihood": "gaussian"},
            "likelihood must be 'bernoulli' for network 'iwaer', got 'gaussian'",
        ),
        ({"network": "iwaer-rec", "prior": "vamp"}, "prior must be 'standard' for network 'iwaer-rec', got 'vamp'"),
        (
            {"dataset": "cifar"},
            "unknown data set 'cifar': choose one of digits, .*, or the path of a .npz or .npy file",
        ),
        ({"validation": -1}, "validation must be at least 0"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict, message: str) -> None:
    changes = {"dataset": "digits", **changes}
    with pytest.raises(ValueError, match=message):
        TrainConfig.preset(changes.pop("dataset"), **changes)


def test_a_run_goes_on_elsewhere(digits: ImageData, tmp_path) -> None:
    """Continue with another objective, as in Table 2 of Burda, Grosse & Salakhutdinov (2016)."""
    settings = config(bound="elbo", k=1)
    first = create_run(tmp_path / "first", settings)
    training.train(settings, first, digits)
    kept = first.checkpoint.read_bytes()
    _, checkpoint = open_run(first.folder)
    switched = replace(settings, bound="iwae", k=6, epochs=4)
    second = continue_elsewhere(first, tmp_path / "second", switched)
    assert training.train(switched, second, digits, resume_from=checkpoint)
    assert first.checkpoint.read_bytes() == kept
    run, checkpoint = open_run(second.folder)
    assert (checkpoint.step, checkpoint.config.k) == (12, 6)
    assert len(run.metrics.read_text().splitlines()) == 5
