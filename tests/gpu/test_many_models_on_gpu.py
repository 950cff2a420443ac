"""Tests of several models side by side, and of compiled networks, with real CUDA graphs."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import iwae_fast as iw

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
]

SAME_BITS = {"rtol": 0.0, "atol": 0.0}


def step_of(number: int) -> iw.CapturedStep:
    """Return a step of the papers' network; k, the learning rate and the seed depend on its number."""
    torch.manual_seed(1)
    model = iw.models.DenseVAE(784).cuda()
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=(1, 5, 50)[number % 3])
    return iw.CapturedStep(objective, model, iw.optim.Adam(model.parameters(), lr=1e-3 / (1 + number)), seed=number)


def batches(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(2)
    return [torch.rand(20, 784, generator=generator).round().cuda() for _ in range(count)]


@pytest.mark.parametrize("models", [6, 40])  # torch has 32 streams, so that some models share one
def test_models_side_by_side_take_the_steps_that_they_take_alone(models: int) -> None:
    steps, alone = iw.CapturedSteps(map(step_of, range(models))), [step_of(number) for number in range(models)]
    xs = batches(12)
    losses = torch.stack([steps(x) for x in xs])
    assert steps.reasons == (None,) * models
    expected = torch.stack([torch.stack([step(x) for x in xs]) for step in alone], 1)
    torch.testing.assert_close(losses, expected, **SAME_BITS)
    for one, other in zip(steps.steps, alone, strict=True):
        torch.testing.assert_close(one.model.state_dict(), other.model.state_dict(), **SAME_BITS)


def test_replays_side_by_side_never_wait_for_the_device() -> None:
    steps, xs = iw.CapturedSteps(map(step_of, range(3))), batches(5)
    for x in xs:
        steps(x)
    torch.cuda.set_sync_debug_mode("error")
    try:
        losses = [steps(x) for x in xs]
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert torch.stack(losses).isfinite().all()


class Halves(nn.Module):
    def forward(self, value: Tensor) -> tuple[Tensor, Tensor]:
        first, second = value.chunk(2, -1)
        return first, second


def convolutional() -> iw.models.VAE:
    torch.manual_seed(1)
    encoder = nn.Sequential(
        *(nn.Unflatten(1, (1, 28, 28)), nn.Conv2d(1, 8, 4, 2, 1), nn.ReLU(), nn.Flatten()),
        *(nn.Linear(8 * 14 * 14, 16), Halves()),
    )
    decoder = nn.Sequential(
        *(nn.Linear(8, 8 * 14 * 14), nn.ReLU(), nn.Unflatten(1, (8, 14, 14))),
        *(nn.ConvTranspose2d(8, 1, 4, 2, 1), nn.Flatten()),
    )
    return iw.models.VAE(encoder, decoder).cuda()


@pytest.mark.parametrize("build", [convolutional, lambda: iw.models.DenseVAE(784, (8, 4), ((32,), (16,))).cuda()])
def test_compiled_networks_are_captured(build: Any) -> None:
    losses = []
    for on in (True, False):
        model = build()
        objective = iw.Objective(iw.bounds.IWAE(), "dreg", 5)
        optimizer = iw.optim.Adam(model.parameters(), lr=1e-4)
        step = iw.CapturedStep(objective, model, optimizer, seed=3, compile=on)
        losses.append(torch.stack([step(x) for x in batches(8)]))
        assert step.reason is None
    torch.testing.assert_close(*losses, rtol=1e-4, atol=1e-2)
