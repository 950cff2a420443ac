"""Tests of gradients that the forward pass computes in advance, and their scaling by the upstream gradient: with
a value that the host can read, as on a CPU, and without a synchronization, as on a GPU."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from devices import BACKENDS, device_of
from torch import Tensor
from torch.testing import assert_close

import iwae_fast as iw
from iwae_fast.ops import function
from iwae_fast.ops import linear as linear_ops
from iwae_fast.ops.function import supports

K, BATCH, FEATURES, HIDDEN = 3, 4, 9, 5
Loss = Callable[..., Tensor]


def inputs(backend: str) -> list[Tensor]:
    """Return value, logits and log-ratio, the same numbers for every backend, on its device."""
    torch.manual_seed(0)
    value = torch.rand(BATCH, FEATURES, dtype=torch.float64).round()
    logits = torch.randn(K, BATCH, FEATURES, dtype=torch.float64)
    log_ratio = torch.randn(K, BATCH, dtype=torch.float64)
    log_ratio[0, 1] = -math.inf  # a weight of zero
    value, *leaves = (t.to(device_of(backend)) for t in (value, logits, log_ratio))
    return [value, *(t.requires_grad_() for t in leaves)]


def layer(backend: str) -> list[Tensor]:
    torch.manual_seed(1)
    hidden, weight = torch.randn(K, BATCH, HIDDEN).double(), torch.randn(FEATURES, HIDDEN).double()
    tensors = (hidden, weight, torch.randn(FEATURES).double())
    return [t.to(device_of(backend)).requires_grad_() for t in tensors]


def plain(reduction: str, backend: str) -> tuple[Tensor, list[Tensor]]:
    value, logits, log_ratio = inputs(backend)
    loss = iw.bernoulli_iwae_loss(value, logits, log_ratio, reduction=reduction, backend=backend)
    return loss, [logits, log_ratio]


def linear(reduction: str, backend: str) -> tuple[Tensor, list[Tensor]]:
    value, _, log_ratio = inputs(backend)
    parameters = layer(backend)
    loss = iw.linear_bernoulli_iwae_loss(value, *parameters, log_ratio, reduction=reduction, backend=backend)
    return loss, [*parameters, log_ratio]


def residual(reduction: str, backend: str) -> tuple[Tensor, list[Tensor]]:
    value, _, _ = inputs(backend)
    parameters = layer(backend)
    log_prob = iw.linear_bernoulli_log_prob(value, *parameters, recompute=False, backend=backend)
    return log_prob if reduction == "none" else getattr(log_prob, reduction)(), parameters


def gradients(result: Tensor, leaves: list[Tensor], incoming: Tensor, **options: bool) -> list[Tensor]:
    """Return gradients on the CPU, for an upstream gradient on the CPU."""
    found = torch.autograd.grad(result, leaves, incoming.to(result.device), **options)
    return [gradient.cpu() for gradient in found]


@pytest.fixture(params=[True, False], ids=["looking", "not looking"])
def looking(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    if not request.param:
        for module in (function, linear_ops):
            monkeypatch.setattr(module, "is_host_readable", lambda _: False)
    return request.param


@pytest.mark.parametrize("call", [plain, linear, residual])
@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("backend", BACKENDS)
def test_any_number_may_come(backend: str, reduction: str, call: Loss, looking: bool) -> None:
    loss, leaves = call(reduction, backend)
    exact, exact_leaves = call(reduction, "reference")
    for number in (1.0, -2.5, 0.0):  # the same graph again and again
        incoming = torch.full_like(exact, number)
        if reduction == "none":
            incoming[..., -1] = 7.0
        ours = gradients(loss, leaves, incoming, retain_graph=True)
        assert_close(ours, gradients(exact, exact_leaves, incoming, retain_graph=True))
    last = torch.full_like(exact, 3.0)
    assert_close(gradients(loss, leaves, last), gradients(exact, exact_leaves, last))


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_weight_of_zero_stops_infinity(backend: str, looking: bool) -> None:
    loss, (logits, log_ratio) = plain("none", backend)
    grad_logits, grad_log_ratio = torch.autograd.grad(loss, (logits, log_ratio), torch.full_like(loss, math.inf))
    assert (grad_logits[0, 1] == 0).all()
    assert grad_log_ratio[0, 1] == 0
    assert not grad_logits[1, 1].isfinite().any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_nobody_waits(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that tensors are not read where reading would synchronize with the device."""
    for module in (function, linear_ops):
        monkeypatch.setattr(module, "is_host_readable", lambda _: False)
    losses = [call("mean", backend) for call in (plain, linear, residual)]

    def refuse(self: Tensor) -> float:
        raise AssertionError("a number was asked for")

    for name in ("item", "__bool__", "__float__", "tolist"):
        monkeypatch.setattr(Tensor, name, refuse)
    for loss, leaves in losses:
        torch.autograd.grad(loss, leaves)


def test_a_gpu_has_an_op_for_it() -> None:
    assert supports("rescale", "cuda")
    assert not supports("rescale", "cpu")
