"""Tests that all public functions accept the same observations, and raise one-line errors for others."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import density_ops
import numpy as np
import pytest
import torch
from density_ops import DensityOp
from torch import Tensor, nn

import iwae_fast as iw

COUNTS = torch.tensor([[0, 1, 2, 1], [2, 0, 0, 1], [1, 1, 0, 2], [0, 0, 2, 0], [2, 1, 1, 1], [0, 2, 1, 0]])


class Encoder(nn.Module):
    """A user's encoder that does not convert its input."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Linear(4, 2), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x), self.log_std(x)


class Table(nn.Module):
    """An encoder whose input must be indices."""

    def __init__(self) -> None:
        super().__init__()
        self.mean, self.log_std = nn.Embedding(3, 2), nn.Embedding(3, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.mean(x).sum(1), self.log_std(x).mean(1)


def dense(likelihood: str | iw.likelihoods.Likelihood) -> iw.models.VAE:
    torch.manual_seed(0)
    return iw.models.DenseVAE(4, (2,), (8,), likelihood=likelihood)


MODELS: dict[str, Callable[[], iw.models.LatentVariableModel]] = {
    "counts": lambda: dense("negative-binomial"),
    "classes": lambda: dense(iw.likelihoods.Categorical(3)),
    "pixels": lambda: dense("bernoulli"),
    "own": lambda: iw.models.VAE(Encoder(), nn.Linear(2, 4)),
    "binary": lambda: iw.models.BernoulliVAE(nn.Linear(4, 2), nn.Linear(2, 4), latent_dim=2),
    "random": lambda: iw.models.RandomWeightsVAE(4, 2, (8,)),
}


def captured_step(objective: iw.Objective, model: iw.models.LatentVariableModel, x: Any) -> Tensor:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    with pytest.warns(UserWarning, match="one by one"):
        step = iw.CapturedStep(objective, model, optimizer, seed=1)
    return step(x)


def results(model: iw.models.LatentVariableModel) -> dict[str, Callable[[Any], Any]]:
    """Return the result of each function for x."""
    estimator = "reparameterized" if model.reparameterized else "vimco"
    whole, chunked = (iw.Objective(iw.bounds.IWAE(), estimator, 4, chunk_size=chunk) for chunk in (None, 2))
    return {
        "encode": lambda x: model.encode(x)[0],
        "objective": lambda x: whole(model, x, seed=1),
        "chunks": lambda x: chunked(model, x, seed=1),
        "log_weights": lambda x: model.log_weights(x, 3, 1),
        "log_likelihood": lambda x: model.log_likelihood(x, torch.zeros(3, len(COUNTS), 2)),
        "reconstruct": model.reconstruct,
        "resample": lambda x: model.sample_implicit_posterior(x, 3, 1),
        "evaluate": lambda x: iw.evaluate.log_likelihood(model, x, 5, seed=1).value,
        "active_units": lambda x: iw.activity.active_units(model, x).variance[0],
        "gradient_snr": lambda x: torch.tensor(
            [s.overall for s in iw.gradient_snr(whole, model, x, 4, seed=1).values()]
        ),
        "check_estimator": lambda x: torch.tensor(
            [g.snr.overall for g in iw.check_estimator(whole, model, x, 30, reference=whole, seed=1).groups.values()]
        ),
        "captured": lambda x: captured_step(whole, model, x),
    }


FUNCTIONS = list(results(MODELS["pixels"]()))


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", ["counts", "classes"])
def test_integers_are_the_floats_of_their_value(name: str, function: str) -> None:
    call = results(MODELS[name]())[function]
    expected = call(COUNTS.float())
    for dtype in (torch.uint8, torch.int64):
        torch.testing.assert_close(call(COUNTS.to(dtype)), expected, equal_nan=True)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", list(MODELS))
def test_observations_of_another_floating_dtype_than_the_model(name: str, function: str) -> None:
    x = (COUNTS > 0).float() if name not in ("counts", "classes") else COUNTS.float()
    call = results(MODELS[name]())[function]
    expected = call(x)
    # Both hold these numbers exactly; thirty draws take their time.
    for dtype in (torch.float64,) if function == "check_estimator" else (torch.float64, torch.bfloat16):
        torch.testing.assert_close(call(x.to(dtype)), expected, rtol=1e-4, atol=1e-4, equal_nan=True, check_dtype=False)


@pytest.mark.parametrize("function", FUNCTIONS)
@pytest.mark.parametrize("name", list(MODELS))
def test_other_observations_are_refused_by_name(name: str, function: str) -> None:
    call = results(MODELS[name]())[function]
    x = COUNTS.float()
    refused: list[tuple[Any, type[Exception], str]] = [
        (COUNTS.bool(), TypeError, "^x must be float32.* got torch.bool"),
        (x.to(torch.complex64), TypeError, "^x must be float32.* got torch.complex64"),
        (x.numpy(), TypeError, "^x must be a torch.Tensor.* got ndarray: convert it"),
        (x.tolist(), TypeError, "^x must be a .*ensor.* list"),
        (None, TypeError, "^x must be a torch.Tensor.* got NoneType"),
        (x[0], ValueError, r"^x must be \(B, ...\).* got shape \(4,\)"),
    ]
    if name not in ("counts", "classes"):
        refused += [(x.to(t), TypeError, f"^x must be float32.* got {t}") for t in (torch.uint8, torch.int64)]
    if name not in ("own", "binary") and function != "log_likelihood":
        refused.append(((x > 0).float()[:, :3], ValueError, r"^x must .*4 features.* \(6, 3\)"))
    for given, error, message in refused:
        with pytest.raises(error, match=message):
            call(given)


@pytest.mark.parametrize(
    "encoder", [nn.Linear(4, 4), nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten()), nn.Sequential(nn.Conv1d(2, 2, 1))]
)
def test_a_shape_that_ones_own_encoder_does_not_take_is_named(encoder: nn.Module) -> None:
    model = iw.models.VAE(encoder, nn.Linear(2, 4), latent_dim=2)
    with pytest.raises(
        ValueError, match=rf"^x \(6, 3\) has a shape that the encoder, a {type(encoder).__name__}, does"
    ):
        model.encode(torch.rand(6, 3))


def test_integers_reach_an_encoder_as_they_are() -> None:
    class Linear(nn.Module):
        def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
            return z.repeat(1, 2), torch.zeros(len(z), 4)

    model = iw.models.VAE(Table(), Linear(), "negative-binomial")
    mean, _ = model.encode(COUNTS)
    torch.testing.assert_close(mean, model.encoder.mean.weight[COUNTS].sum(1))
    mask = COUNTS < 2  # hides the class that is then seen as 0
    torch.testing.assert_close(model.encode(COUNTS, mask=mask)[0], model.encoder.mean.weight[COUNTS * mask].sum(1))
    assert iw.evaluate.log_likelihood(model, COUNTS, 5, mask=mask).value.isfinite().all()
    own = iw.models.VAE(Encoder(), Linear(), "negative-binomial")
    for function in ("evaluate", "objective", "active_units"):
        with pytest.raises(TypeError, match="^x is torch.int64, which the encoder, a Encoder, does not take"):
            results(own)[function](COUNTS)


def test_active_units_of_a_loader() -> None:
    model, x = dense("bernoulli"), torch.rand(600, 4)
    whole = iw.activity.active_units(model, x, seed=1).variance[0]
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(x), 100)
    assert torch.equal(iw.activity.active_units(model, loader, seed=1).variance[0], whole)


def test_no_model() -> None:
    x, objective = torch.rand(3, 4), iw.Objective(iw.bounds.IWAE(), num_samples=2)
    for call in (
        lambda: iw.evaluate.log_likelihood(nn.Linear(4, 4), x, 5),
        lambda: iw.activity.active_units(nn.Linear(4, 4), x),
        lambda: objective(nn.Linear(4, 4), x),
        lambda: iw.gradient_snr(objective, nn.Linear(4, 4), x),
    ):
        with pytest.raises(TypeError, match="^model must be one of iwae_fast.models.* got Linear"):
            call()
    with pytest.raises(TypeError, match="^objective must be an iwae_fast.Objective, got str"):
        iw.gradient_snr("IWAE", dense("bernoulli"), x)
    with pytest.raises(TypeError, match="^context must be a sequence of tensors, such as .* got NoneType"):
        iw.evaluate.log_likelihood(dense("bernoulli"), x, 5, context=None)


def with_zeros(op: DensityOp, shape: tuple[int, ...], *others: Tensor) -> tuple[str, Callable[[Any], Any]]:
    """Return the name of an op's first argument, and the op as a function of it."""
    first, *rest = op.parameters
    return first, lambda value: op.function(value, *(torch.zeros(shape) for _ in rest), *others)


FUNCTIONAL: dict[str, tuple[str, Callable[[Any], Any]]] = {
    **{name: with_zeros(op, (3,)) for name, op in density_ops.LOG_PROBS.items()},
    **{name: with_zeros(op, (4, 2, 3), torch.zeros(4, 2)) for name, op in density_ops.LOSSES.items()},
    "linear_bernoulli_log_prob": (
        "value",
        lambda v: iw.linear_bernoulli_log_prob(v, torch.zeros(2, 5), torch.zeros(3, 5)),
    ),
    "sample_gaussian": ("mean", lambda v: iw.sample_gaussian(v, torch.zeros(2, 3), 2)),
    "log_mean_exp": ("log_weights", iw.log_mean_exp),
    "normalized_weights": ("log_weights", iw.normalized_weights),
    "effective_sample_size": ("log_weights", iw.effective_sample_size),
    "iwae_loss": ("log_weights", iw.iwae_loss),
    "IWAE": ("log_weights", iw.bounds.IWAE()),
    "PIWAE": ("log_weights", iw.bounds.PIWAE(2)),
    "coefficients": ("log_weights", iw.bounds.CIWAE(0.5).coefficients),
    "pareto_k": ("log_weights", iw.diagnostics.pareto_k),
}


@pytest.mark.parametrize("name", list(FUNCTIONAL))
def test_what_the_functions_of_tensors_refuse(name: str) -> None:
    argument, call = FUNCTIONAL[name]
    for given, got in (
        (np.zeros((2, 3), np.float32), "ndarray"),
        ([[0.0] * 3] * 2, "list"),
        (None, "NoneType"),
        (torch.zeros(2, 3, dtype=torch.bool), "torch.bool"),
        (torch.zeros(2, 3, dtype=torch.int64), "torch.int64"),
        (torch.zeros(2, 3, dtype=torch.uint8), "torch.uint8"),
    ):
        if "negative_binomial" in name and got in ("torch.int64", "torch.uint8"):
            continue  # counts
        with pytest.raises(TypeError, match=f"^{argument} must be .*got {got}"):
            call(given)
