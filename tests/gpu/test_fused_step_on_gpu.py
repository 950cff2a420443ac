"""Tests of training steps in one launch on a real GPU, against eager steps in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import iwae_fast as iw
from iwae_fast.backends import MISSING
from iwae_fast.experiments.train.pixels import batches_as_pixels

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device"),
    pytest.mark.skipif(MISSING["cuda"] is not None, reason=f"no CUDA kernels: {MISSING['cuda']}"),
]

RATE = 2.0**-10
"""The same number in float32 and in double."""
PIXELS = 11

SIZES = [
    pytest.param((784, 50, (200, 200)), 50, 20, id="the papers' network, k = 50"),
    pytest.param((784, 50, (200, 200)), 1, 20, id="k = 1"),
    pytest.param((784, 50, (200, 200)), 500, 20, id="k = 500"),
    pytest.param((784, 50, (200, 200)), 50, 100, id="a batch of 100"),
    pytest.param((131, 7, (33, 65, 17)), 6, 9, id="odd sizes"),
]


def build(sizes: tuple[int, int, tuple[int, ...]], dtype: torch.dtype) -> iw.models.DenseVAE:
    torch.manual_seed(1)
    data_dim, latent, hidden = sizes
    return iw.models.DenseVAE(data_dim, (latent,), (hidden,)).cuda().to(dtype)


def adam(model: iw.models.DenseVAE) -> iw.optim.Adam:
    return iw.optim.Adam(model.parameters(), lr=RATE, eps=1e-4)


def levels(data_dim: int) -> Tensor:
    return torch.rand(64, data_dim, generator=torch.Generator().manual_seed(2)).cuda()


def fused(objective: iw.Objective, model: iw.models.DenseVAE, data: Tensor) -> iw.FusedStep:
    return iw.FusedStep(objective, model, adam(model), data, seed=3, pixel_seed=PIXELS)


@pytest.mark.parametrize(("sizes", "k", "batch"), SIZES)
@pytest.mark.parametrize("estimator", ["reparameterized", "dreg"])
def test_steps_are_those_of_float64(
    sizes: tuple[int, int, tuple[int, ...]], k: int, batch: int, estimator: str
) -> None:
    objective = iw.Objective(iw.bounds.IWAE(), estimator, num_samples=k)
    grey_levels = levels(sizes[0])
    rows = torch.randint(len(grey_levels), (20, batch), device="cuda")
    model, again, exact = build(sizes, torch.float32), build(sizes, torch.float32), build(sizes, torch.float64)
    losses = fused(objective, model, grey_levels)(rows)
    step = fused(objective, again, grey_levels)
    assert torch.equal(torch.cat([step(rows[:7]), step(rows[7:])]), losses)
    for own, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(own, other)

    optimizer, seed = adam(exact), iw.CapturedStep(objective, exact, adam(exact), seed=3).seed
    x = batches_as_pixels(grey_levels[rows], torch.tensor(PIXELS, device="cuda"), torch.arange(20, device="cuda"))
    for index in range(20):
        optimizer.zero_grad()
        loss = objective(exact, x[index].double(), seed=seed)
        loss.backward()
        optimizer.step()
        seed = seed + 1
        torch.testing.assert_close(losses[index].double(), loss.detach(), rtol=1e-5, atol=1e-4)
    for (name, own), other in zip(model.named_parameters(), exact.parameters(), strict=True):
        assert (own.double() - other).norm() <= 1e-4 * other.norm() + 1e-5, name


def test_it_does_not_synchronize() -> None:
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=5)
    model = build((784, 50, (200, 200)), torch.float32)
    step = fused(objective, model, levels(784))
    rows = torch.randint(64, (10, 20), device="cuda")
    step(rows)
    torch.cuda.set_sync_debug_mode("error")
    try:
        step(rows)
    finally:
        torch.cuda.set_sync_debug_mode("default")
