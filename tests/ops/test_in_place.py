"""Tests that results may be changed in-place before the backward pass, as in ``loss /= steps``."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import density_ops
import pytest
import torch
from density_ops import DensityOp
from devices import ALL, device_of
from torch import Tensor

import iwae_fast as iw

Change = Callable[[Tensor], Tensor]

CHANGES: dict[str, tuple[float, Change]] = {
    "/= 4": (0.25, lambda t: t.div_(4.0)),
    "*= 2": (2.0, lambda t: t.mul_(2.0)),
    "add_(1)": (1.0, lambda t: t.add_(1.0)),
}
"""Changes of a result in place, each with the factor of its gradients."""


def leaves(backend: str) -> list[Tensor]:
    """Return logits, log-ratio, hidden layer, weight and bias, which require gradients."""
    torch.manual_seed(0)
    shapes = ((3, 4, 9), (3, 4), (3, 4, 5), (9, 5), (9,))
    return [torch.randn(shape).double().to(device_of(backend)).requires_grad_() for shape in shapes]


def observations(logits: Tensor) -> Tensor:
    return (logits[0].detach() > 0.3).double()


def tensors_of(op: DensityOp, logits: Tensor) -> list[Tensor]:
    """Return the tensors of a density, of which all but observations depend on the logits."""
    count = len(op.parameters)
    value = observations(logits) if count > 1 else logits
    return [value, *(0.1**index * logits for index in range(count - 1))]


def log_prob(op: DensityOp, backend: str, logits: Tensor, *_: Tensor) -> Tensor:
    return op.function(*tensors_of(op, logits), backend=backend)


def loss(op: DensityOp, reduction: str, backend: str, logits: Tensor, log_ratio: Tensor, *_: Tensor) -> Tensor:
    return op.function(*tensors_of(op, logits), log_ratio, reduction=reduction, backend=backend)


def residual(backend: str, logits: Tensor, _: Tensor, *layer: Tensor) -> Tensor:
    return iw.linear_bernoulli_log_prob(observations(logits), *layer, recompute=False, backend=backend)


def recomputed(backend: str, logits: Tensor, _: Tensor, *layer: Tensor) -> Tensor:
    return iw.linear_bernoulli_log_prob(observations(logits), *layer, backend=backend)


def log_mean_exp(backend: str, _: Tensor, log_ratio: Tensor, *rest: Tensor) -> Tensor:
    return iw.log_mean_exp(log_ratio, backend=backend)


def sample_gaussian(backend: str, logits: Tensor, *_: Tensor) -> Tensor:
    z, _ = iw.sample_gaussian(logits[0], 0.1 * logits[1], 3, 1, backend=backend)
    return z


def linear_bernoulli_iwae_loss(backend: str, logits: Tensor, log_ratio: Tensor, *layer: Tensor) -> Tensor:
    return iw.linear_bernoulli_iwae_loss(observations(logits), *layer, log_ratio, backend=backend)


OPS: dict[str, Callable[..., Tensor]] = {
    **{name: partial(log_prob, op) for name, op in density_ops.LOG_PROBS.items()},
    **{name: partial(loss, op, "mean") for name, op in density_ops.LOSSES.items()},
    **{f"{name}, none": partial(loss, op, "none") for name, op in density_ops.LOSSES.items()},
    "residual": residual,
    "recomputed": recomputed,
    "log_mean_exp": log_mean_exp,
    "sample_gaussian": sample_gaussian,
    "linear_bernoulli_iwae_loss": linear_bernoulli_iwae_loss,
}


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("backend", ALL)
def test_ops(backend: str, name: str) -> None:
    op, inputs = OPS[name], leaves(backend)
    plain = op(backend, *inputs)
    gradients = torch.autograd.grad(plain.sum(), inputs, allow_unused=True)
    for factor, in_place in CHANGES.values():
        changed = op(backend, *inputs)
        assert in_place(changed) is changed
        torch.testing.assert_close(changed, in_place(plain.detach().clone()))
        found = torch.autograd.grad(changed.sum(), inputs, allow_unused=True)
        torch.testing.assert_close(found, tuple(None if g is None else factor * g for g in gradients))


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"bound": iw.bounds.JVI(1)},
        {"estimator": "stl"},
        {"estimator": "dreg"},
        {"estimator": "vimco"},
        {"budget": 2},
        {"tolerance": 1e-3},
        {"chunk_size": 2},
        {"estimator": "dreg", "budget": 1},
    ],
    ids=str,
)
def test_objectives(settings: dict[str, Any], reduction: str) -> None:
    torch.manual_seed(0)
    model, x = iw.models.DenseVAE(9, (3,), (8,)).double(), torch.rand(4, 9).double()
    objective = iw.Objective(**{"bound": iw.bounds.IWAE(), "num_samples": 5, "reduction": reduction, **settings})
    parameters = list(model.parameters())
    expected = torch.autograd.grad(0.25 * objective(model, x, seed=1).sum(), parameters)
    loss = objective(model, x, seed=1)
    seen = objective.record.value.clone()
    loss /= 4.0
    torch.testing.assert_close(torch.autograd.grad(loss.sum(), parameters), expected)
    torch.testing.assert_close(objective.last.value, seen)
