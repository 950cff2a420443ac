"""Tests of whole objectives (value and every gradient) and of evaluation, on each backend against the reference."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from devices import BACKENDS, device_of
from torch import Tensor

import iwae_fast as iw

CASES: dict[str, dict[str, Any]] = {
    "one layer": {},
    "budget": {"budget": 2},
    "chunks of DReG": {"estimator": "dreg", "chunk_size": 2},
    "two layers, GDReG": {"estimator": "gdreg", "latent_dims": (6, 4), "hidden_dims": ((12,), (8,))},
    "Gaussian pixels": {"likelihood": "gaussian"},
    "masked": {"mask": True},
}


def value_and_gradients(case: str, backend: str, dtype: torch.dtype) -> list[Tensor]:
    options = dict(CASES[case])
    mask = torch.rand(6, 20, generator=torch.Generator().manual_seed(3)) > 0.3 if options.pop("mask", False) else None
    sizes = {"latent_dims": (6,), "hidden_dims": (12,), "likelihood": "bernoulli"}
    network = {name: options.pop(name, default) for name, default in sizes.items()}
    torch.manual_seed(1)
    device = device_of(backend)
    model = iw.models.DenseVAE(20, **network, backend=backend).to(device, dtype)
    x = torch.rand(6, 20).round().to(device, dtype)
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=5, **options)
    loss = objective(model, x, seed=7, mask=None if mask is None else mask.to(device))
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    log_likelihood = iw.evaluate.log_likelihood(model, x, 9, seed=5).value
    return [result.detach().cpu() for result in (loss, objective.last.ess, log_likelihood, *gradients)]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("backend", BACKENDS)
def test_agrees_with_the_reference(backend: str, case: str) -> None:
    ours, exact = (value_and_gradients(case, name, torch.float64) for name in (backend, "reference"))
    torch.testing.assert_close(ours, exact, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("backend", BACKENDS)
def test_float32_is_float64_rounded(backend: str) -> None:
    single, double = (value_and_gradients("one layer", backend, dtype) for dtype in (torch.float32, torch.float64))
    for found, exact in zip(single, double, strict=True):
        torch.testing.assert_close(found.double(), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("reduction", ["sum", "mean"])
@pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
def test_no_observations_move_nothing(backend: str, reduction: str) -> None:
    device = device_of(backend)
    model = iw.models.DenseVAE(20, (6,), (12,), backend=backend).to(device)
    loss = iw.Objective(iw.bounds.IWAE(), num_samples=3, reduction=reduction)(model, torch.zeros(0, 20, device=device))
    loss.backward()
    assert (loss == 0) if reduction == "sum" else loss.isnan()
    for parameter in model.parameters():
        assert (parameter.grad == 0).all()
