"""Tests of models that are written to a folder, and read from it or from the cache of a hub."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import iwae_fast as iw
from iwae_fast.models import DenseVAE, LatentVariableModel, MixturePrior, RandomWeightsVAE, VampPrior
from iwae_fast.models.dense import DenseLayer

safetensors = pytest.importorskip("safetensors", reason="safetensors, of the extras cli and hub, is not installed")

D = 6


def normal() -> torch.distributions.Distribution:
    return torch.distributions.Normal(torch.zeros(2), torch.ones(2))


MODELS: dict[str, Callable[[], LatentVariableModel]] = {
    "two layers": lambda: DenseVAE(D, (3, 2), ((5,), (4, 4)), data_mean=torch.full((D,), 0.3)),
    "mixture": lambda: DenseVAE(D, (2,), (5,), prior=MixturePrior(3, 2)),
    "vamp": lambda: DenseVAE(D, (2,), (5,), prior=VampPrior(torch.rand(4, D), 0.0, 1.0)),
    "no hidden layers": lambda: DenseVAE(D, (np.int64(2),), ()),
    "float64": lambda: DenseVAE(D, (2,), (5,)).double(),
    "bfloat16": lambda: DenseVAE(D, (2,), (5,)).bfloat16(),
    "fixed scale": lambda: DenseVAE(D, (2,), (5,), likelihood=iw.likelihoods.Gaussian(0.3)),
    "classes": lambda: DenseVAE(D, (2,), (5,), likelihood=iw.likelihoods.Categorical(3)),
    "random": lambda: RandomWeightsVAE(D, 2, (5, 4), draws="shared"),
    "random encoder": lambda: RandomWeightsVAE(D, 2, (5,), random="encoder"),
    **{
        f"likelihood {name}": lambda name=name: DenseVAE(D, (2,), (5,), likelihood=name)
        for name in iw.likelihoods.LIKELIHOODS
    },
}


def trained(model: LatentVariableModel) -> LatentVariableModel:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn_like(parameter)
    return model


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_is_read_is_the_one_that_was_written(name: str, tmp_path: Path) -> None:
    model, folder = trained(MODELS[name]()), tmp_path / "new" / "folder"
    model.save_pretrained(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    state = torch.get_rng_state()
    found = type(model).from_pretrained(str(folder))
    assert torch.equal(torch.get_rng_state(), state)
    assert type(found) is type(model)
    assert not found.training
    for (key, own), (_, other) in zip(model.state_dict().items(), found.state_dict().items(), strict=True):
        assert torch.equal(own, other), key
        assert own.dtype == other.dtype
    assert all(parameter.requires_grad for parameter in found.parameters())
    dtype = next(model.parameters()).dtype
    x = torch.rand(4, D).round().to(dtype)
    assert torch.equal(found.log_weights(x, 3, 1), model.log_weights(x, 3, 1))
    iw.Objective(iw.bounds.IWAE(), "reparameterized", 3)(found, x).backward()  # it can be trained further
    assert all(parameter.grad is not None for parameter in found.parameters())
    found.save_pretrained(tmp_path / "again")
    for file in ("config.json", "model.safetensors"):
        written = [(each / file).read_bytes() for each in (folder, tmp_path / "again")]
        assert file == "model.safetensors" or written[0] == written[1]


def test_the_files_are_those_of_hugging_face(tmp_path: Path) -> None:
    MODELS["mixture"]().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {
        "architectures": ["DenseVAE"],
        "model_type": "iwae_fast",
        "iwae_fast_format": 1,
        "iwae_fast_version": iw.__version__,
        "data_dim": D,
        "latent_dims": [2],
        "hidden_dims": [[5]],
        "likelihood": {"type": "Bernoulli"},
        "prior": {"type": "MixturePrior", "num_components": 3, "latent_dim": 2},
    }
    with safetensors.safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(MODELS["mixture"]().state_dict())


def test_backend_and_class(tmp_path: Path) -> None:
    MODELS["two layers"]().save_pretrained(tmp_path)
    found = LatentVariableModel.from_pretrained(tmp_path, backend="reference", device=torch.device("cpu"))
    assert isinstance(found, DenseVAE)
    assert found.backend == "reference"
    with pytest.raises(TypeError, match="must hold a RandomWeightsVAE, got a DenseVAE"):
        RandomWeightsVAE.from_pretrained(tmp_path)


class Own(DenseVAE):
    """A subclass that a user has written."""


class Poisson(iw.likelihoods.Bernoulli):
    """A likelihood that a user has written."""


def changed(change: Callable[[DenseVAE], Any]) -> DenseVAE:
    model = DenseVAE(D, (2,), (5,))
    change(model)
    return model


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda: iw.models.VAE(nn.Linear(D, 4), nn.Linear(2, D)),
            "VAE cannot be saved .* its networks are of your own",
        ),
        (
            lambda: iw.models.BernoulliVAE(nn.Linear(D, 4), nn.Linear(4, D), latent_dim=4),
            "BernoulliVAE cannot be saved .* save model.state_dict",
        ),
        (lambda: Own(D, (2,), (5,)), "Own cannot be saved"),
        (lambda: DenseVAE(D, (2,), (5,), prior=normal()), "the prior DistributionPrior cannot be saved"),
        (lambda: DenseVAE(D, (2,), (5,), likelihood=Poisson()), "the likelihood Poisson cannot be saved"),
        (
            lambda: changed(lambda model: model.encoder.hidden.append(nn.Dropout())),
            "encoder.hidden.1 is Dropout in place of nothing; save",
        ),
        (lambda: changed(lambda model: setattr(model, "decoder", nn.Linear(2, D))), "decoder is Linear in place of"),
        (
            lambda: changed(lambda model: setattr(model.encoder, "forward", len)),
            "encoder has a forward\\(\\) of its own",
        ),
        (
            lambda: changed(lambda model: setattr(model.encoder, "mean", DenseLayer(4, 2))),
            "encoder.mean.weight has another shape",
        ),
    ],
)
def test_what_a_config_does_not_describe_is_refused(
    model: Callable[[], LatentVariableModel], message: str, tmp_path: Path
) -> None:
    with pytest.raises(TypeError, match=message):
        model().save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


def rewrite(folder: Path, **entries: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **entries}))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: rewrite(folder, model_type="bert"), "must have model_type 'iwae_fast' .* got 'bert' and 1"),
        (lambda folder: rewrite(folder, iwae_fast_format=2), "iwae_fast_format 1, got 'iwae_fast' and 2"),
        (lambda folder: rewrite(folder, architectures=["Other"]), "must be one of DenseVAE, .* got \\['Other'\\]"),
        (lambda folder: rewrite(folder, architectures="DenseVAE"), "must be one of DenseVAE, .* got 'DenseVAE'"),
        (lambda folder: rewrite(folder, likelihood={"type": "Odd"}), "does not describe a DenseVAE: the type of lik"),
        (lambda folder: rewrite(folder, latent_dims=[0]), "does not describe a DenseVAE: layer sizes"),
        (lambda folder: rewrite(folder, unknown=1), "does not describe a DenseVAE: .*unknown"),
        (lambda folder: rewrite(folder, data_dim=D + 1), "model.safetensors does not hold the parameters of"),
        (lambda folder: (folder / "config.json").write_text("{"), "config.json is not JSON"),
        (lambda folder: (folder / "model.safetensors").write_bytes(b"pickle"), "model.safetensors does not hold"),
    ],
)
def test_a_damaged_folder_is_refused(damage: Callable[[Path], Any], message: str, tmp_path: Path) -> None:
    DenseVAE(D, (2,), (5,)).save_pretrained(tmp_path)
    damage(tmp_path)
    with pytest.raises(ValueError, match=message):
        LatentVariableModel.from_pretrained(tmp_path)


def test_what_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(FileNotFoundError, match=r"has no config.json: it must be one that save_pretrained\(\) has"):
        LatentVariableModel.from_pretrained(tmp_path)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(FileNotFoundError, match="owner/name is not a folder; .* install huggingface_hub"):
        LatentVariableModel.from_pretrained("owner/name")
    for name in ("safetensors", "safetensors.torch"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ImportError, match=r"from_pretrained needs .*safetensors.*pip install 'iwae_fast\[hub\]'"):
        LatentVariableModel.from_pretrained(tmp_path)
    with pytest.raises(ImportError, match="save_pretrained needs .*safetensors"):
        DenseVAE(D, (2,), (5,)).save_pretrained(tmp_path)


def test_settings_that_are_not_numbers_are_refused(tmp_path: Path) -> None:
    prior = VampPrior(torch.rand(4, D), low=torch.zeros(D))  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="settings of a model must be numbers and text .* got tensor"):
        DenseVAE(D, (2,), (5,), prior=prior).save_pretrained(tmp_path / "folder")
    assert not (tmp_path / "folder").exists()


@pytest.mark.skipif(importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed")
def test_a_repository_in_the_cache(tmp_path: Path) -> None:
    """Lay out the cache as huggingface_hub does, so that nothing is downloaded."""
    model = trained(DenseVAE(D, (2,), (5,)))
    repository, commit = tmp_path / "models--owner--name", "0123456789abcdef0123456789abcdef01234567"
    model.save_pretrained(repository / "snapshots" / commit)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    for revision in (None, commit):
        found = DenseVAE.from_pretrained("owner/name", cache_dir=tmp_path, local_files_only=True, revision=revision)
        x = torch.rand(4, D).round()
        assert torch.equal(found.log_weights(x, 3, 1), model.log_weights(x, 3, 1))
    with pytest.raises(OSError, match="cache"):
        DenseVAE.from_pretrained("owner/another", cache_dir=tmp_path, local_files_only=True)
