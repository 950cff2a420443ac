"""Tests of the number of kernels that a training step launches: each costs 0.9 us on an H100 even in a CUDA graph."""

from __future__ import annotations

import pytest
import torch
from count_launches import Launches

import iwae_fast as iw
from iwae_fast.backends import ENVIRONMENT, NATIVE
from iwae_fast.bounds import IWAE, MIWAE, TVO, VRIWAE

K = 12

LIMITS = {
    "IWAE": (iw.Objective(IWAE(), num_samples=K), {"triton": 19, "cuda": 43}),
    "IWAE, k = 1": (iw.Objective(IWAE(), num_samples=1), {"triton": 19, "cuda": 43}),
    "STL": (iw.Objective(IWAE(), "stl", K), {"triton": 19, "cuda": 51}),
    "DReG": (iw.Objective(IWAE(), "dreg", K), {"triton": 20, "cuda": 53}),
    "VR-IWAE": (iw.Objective(VRIWAE(0.3), num_samples=K), {"triton": 19, "cuda": 51}),
    "VR-IWAE, DReG": (iw.Objective(VRIWAE(0.3), "dreg", K), {"triton": 20, "cuda": 53}),
    "MIWAE": (iw.Objective(MIWAE(3), num_samples=K), {"triton": 19, "cuda": 52}),
    "MIWAE, DReG": (iw.Objective(MIWAE(3), "dreg", K), {"triton": 20, "cuda": 54}),
    "TVO": (iw.Objective(TVO(), num_samples=K), {"triton": 80, "cuda": 109}),
    "budget": (iw.Objective(IWAE(), "dreg", K, budget=8), {"triton": 25, "cuda": 60}),
}
"""Objectives by name, with the most launches of a step of the papers' one-layer network, by backend."""


@pytest.mark.parametrize("backend", ["triton", "cuda"])
@pytest.mark.parametrize("name", LIMITS)
def test_launches_of_a_step(name: str, backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if NATIVE[backend].device != "cpu":
        pytest.skip(f"{backend} runs on a GPU here: launches are counted where it is interpreted or emulated")
    monkeypatch.setenv(ENVIRONMENT, backend)
    objective, most = LIMITS[name]
    model = iw.models.DenseVAE(16, (3,), (8, 8), backend=backend)
    optimizer = iw.optim.Adam(model.parameters())
    x, seed = torch.rand(4, 16).round(), torch.tensor(1)

    def step() -> None:
        optimizer.zero_grad()
        objective(model, x, seed=seed).backward()
        optimizer.step()

    step()  # allocates the optimizer's state
    with Launches() as launches:
        step()
    assert len(launches.names) <= most[backend], launches.names
    assert len(launches.names) > 15
