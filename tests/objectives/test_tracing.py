"""Tests of whole calls under torch's compilers and function transforms."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from devices import BACKENDS, device_of
from torch import Tensor, nn

import iwae_fast as iw
from iwae_fast import bounds
from iwae_fast.backends import NATIVE, triton


@pytest.mark.parametrize("backend", BACKENDS)
def test_choosing_a_backend_asks_the_machine_nothing(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that no query is traced: torch.compile of 2.11 cannot trace ``importlib.util.find_spec``."""

    def refuse(*_: Any) -> None:
        raise AssertionError("the machine was asked")

    for module in NATIVE.values():
        monkeypatch.setattr(module, "missing", refuse)
        monkeypatch.setattr(module, "unavailable", refuse)
    for name in ("find_spec", "version"):
        monkeypatch.setattr(triton, name, refuse)
    torch._dynamo.reset()
    value = torch.randn(4, 9, device=device_of(backend))
    compiled = torch.compile(
        lambda t: iw.standard_gaussian_log_prob(t, backend=backend), fullgraph=True, backend="eager"
    )
    expected = iw.standard_gaussian_log_prob(value, backend="reference")
    torch.testing.assert_close(compiled(value), expected)
    torch.testing.assert_close(iw.standard_gaussian_log_prob(value, backend=backend), expected)


def model_and_data(**settings: Any) -> tuple[iw.models.DenseVAE, Tensor]:
    torch.manual_seed(0)
    return iw.models.DenseVAE(9, **{"latent_dims": (3,), "hidden_dims": (8,), **settings}), torch.rand(4, 9).round()


def assert_compiles(objective: iw.Objective, model: nn.Module, x: Tensor) -> None:
    """Assert that a call compiles to one graph, with the eager call's loss, gradients and diagnostics."""
    torch._dynamo.reset()
    bound, parameters, seed = objective.bind(model), list(model.parameters()), torch.tensor(7)
    expected = bound(x, seed=seed)
    expected_grads = torch.autograd.grad(expected.sum(), parameters)
    seen = objective.last
    loss = torch.compile(bound, fullgraph=True, backend="aot_eager")(x, seed=seed)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), parameters), expected_grads)
    torch.testing.assert_close(objective.last[:-1], seen[:-1])


@pytest.mark.parametrize(
    "settings",
    [
        {"estimator": "dreg", "chunk_size": 2},
        {"estimator": "vimco", "budget": 3},
        {"bound": bounds.JVI(1)},
        *(
            pytest.param(settings, marks=pytest.mark.slow)
            for settings in (
                *(
                    {"estimator": name}
                    for name in ("stl", "dreg", "aisle-kl", "aisle-chi2", "rws", "rws-dreg", "vimco")
                ),
                {"budget": 3},
                {"estimator": "dreg", "budget": 3},
                {"chunk_size": 2},
                {"bound": bounds.JVI(2)},
                {"bound": bounds.CUBO(2.0)},
                {"bound": bounds.PIWAE(2)},
                {"bound": bounds.CIWAE(0.5), "estimator": "dreg"},
                {"bound": bounds.TVO()},
                {"bound": bounds.ELBO(), "free_bits": 0.1},
                {"reduction": "sum", "dataset_size": 100},
            )
        ),
    ],
    ids=str,
)
def test_an_objective_is_one_graph(settings: dict[str, Any]) -> None:
    assert_compiles(iw.Objective(**{"bound": bounds.IWAE(), "num_samples": 6, **settings}), *model_and_data())


@pytest.mark.slow
@pytest.mark.parametrize("estimator", ["dreg", "gdreg"])
def test_an_objective_of_two_layers_is_one_graph(estimator: str) -> None:
    model, x = model_and_data(latent_dims=(3, 2), hidden_dims=((8,), (8,)))
    assert_compiles(iw.Objective(bounds.IWAE(), estimator, num_samples=6), model, x)


def test_log_weights_without_a_graph_are_one_graph() -> None:
    torch._dynamo.reset()
    (model, x), seed = model_and_data(), torch.tensor(3)
    compiled = torch.compile(lambda x, seed: model.log_weights(x, 5, seed), fullgraph=True, backend="eager")
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, seed), model.log_weights(x, 5, seed))


class Seeded(nn.Module):
    """A module to export: a loss of observations and a seed."""

    def __init__(self, bound: nn.Module) -> None:
        super().__init__()
        self.bound = bound

    def forward(self, x: Tensor, seed: Tensor) -> Tensor:
        return self.bound(x, seed=seed)


@pytest.mark.parametrize("strict", [True, False])
def test_an_objective_is_exported_for_any_batch(strict: bool) -> None:
    """Export for batches below and above the size at which an eager layer would switch its implementation."""
    model, _ = model_and_data(hidden_dims=(64,))
    loss = Seeded(iw.Objective(bounds.IWAE(), num_samples=4).bind(model))
    batch, seed = {0: torch.export.Dim("batch", min=2, max=4000)}, torch.tensor(7)
    exported = torch.export.export(loss, (torch.rand(40, 9), seed), strict=strict, dynamic_shapes=(batch, None))
    for size in (5, 300):
        x = torch.rand(size, 9)
        torch.testing.assert_close(exported.module()(x, seed), loss(x, seed))


@pytest.mark.parametrize(
    "settings", [{}, {"likelihood": "gaussian"}, {"latent_dims": (3, 2), "hidden_dims": ((8,),) * 2}]
)
@pytest.mark.parametrize("how", [{}, {"estimator": "dreg"}, {"estimator": "vimco"}, {"budget": 2}, {"chunk_size": 2}])
def test_meta_tensors_have_shapes(settings: dict[str, Any], how: dict[str, Any]) -> None:
    model, x = (each.to("meta") for each in model_and_data(**settings))
    loss = iw.Objective(bounds.IWAE(), num_samples=4, **how)(model, x)
    loss.backward()
    assert loss.shape == ()
    assert loss.is_meta
    assert all(p.grad.shape == p.shape for p in model.parameters())


@pytest.mark.parametrize("how", [{}, {"estimator": "dreg"}, {"estimator": "vimco"}, {"budget": 2}], ids=str)
def test_func_transforms_of_an_objective(how: dict[str, Any]) -> None:
    model, x = (each.double() for each in model_and_data())
    bound = iw.Objective(bounds.IWAE(), num_samples=4, **how).bind(model)
    parameters = dict(bound.named_parameters())

    def loss(parameters: dict[str, Tensor]) -> Tensor:
        return torch.func.functional_call(bound, parameters, (x,), {"seed": torch.tensor(3)})

    expected = torch.autograd.grad(loss(parameters), list(parameters.values()))
    torch.testing.assert_close(tuple(torch.func.grad(loss)(parameters).values()), expected)
    _, pull = torch.func.vjp(loss, parameters)
    torch.testing.assert_close(tuple(pull(torch.tensor(1.0).double())[0].values()), expected)


def test_jacobians_of_the_jackknife() -> None:
    """Test columns with equal weights, some zero weights, one nonzero weight, and none."""
    log_weights = torch.randn(4, 5).double()
    log_weights[:, 1] = 0.0
    log_weights[1:3, 2] = -torch.inf
    log_weights[1:, 3] = -torch.inf
    log_weights[:, 4] = -torch.inf
    bound = bounds.JVI(1)
    leaf = log_weights.clone().requires_grad_()
    value = bound(leaf)
    expected = torch.stack([torch.autograd.grad(v, leaf, retain_graph=True)[0] for v in value])
    assert expected.isfinite().all()
    for jacobian in (torch.func.jacrev, torch.func.jacfwd):
        torch.testing.assert_close(jacobian(bound)(log_weights), expected)
    columns = torch.func.vmap(torch.func.grad(bound))(log_weights.T)
    torch.testing.assert_close(columns.T, expected.sum(0))
