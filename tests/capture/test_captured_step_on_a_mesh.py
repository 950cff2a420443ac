"""Tests that captured steps on a mesh of CPU processes make the updates of one process."""

from __future__ import annotations

from pathlib import Path

import mesh_worker
import pytest
import torch
import torch.distributed as dist
from mesh_worker import CAPTURED, OBJECTIVES, SEED, batches, build, on_ranks, sgd
from torch.distributed.device_mesh import init_device_mesh

import iwae_fast as iw
from iwae_fast.capture import unavailable
from iwae_fast.objectives.ranks import MeshRanks

pytestmark = [
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo"),
    pytest.mark.xdist_group("mesh"),
]


def one_process(name: str) -> mesh_worker.Steps:
    """Train by a loop of one process, with the seeds of a captured step."""
    model, losses = build(), []
    optimizer = sgd(model)
    with pytest.warns(UserWarning, match="the model is on cpu"):
        seed = int(iw.CapturedStep(OBJECTIVES[name], build(), sgd(build()), seed=SEED).seed)
    for index, x in enumerate(batches()):
        optimizer.zero_grad()
        loss = OBJECTIVES[name](model, x, seed=seed + index)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    gradients = [p.grad for p in model.parameters()]
    return mesh_worker.Steps(losses, [p.detach() for p in model.parameters()], gradients, (0, 0, 0), [])


def test_replays_on_a_mesh_are_one_process(tmp_path: Path) -> None:
    """Check losses, gradients and parameters of every rank, with one all-reduce of all gradients per step."""
    exact = {name: one_process(name) for name in CAPTURED}
    size = 8 * sum(p.numel() for p in build().parameters())
    for by_shape in on_ranks(2, "captured_steps", tmp_path):
        for results in by_shape.values():
            for name, found in results.items():
                assert torch.tensor(found.losses).isfinite().all()
                for part in ("losses", "parameters", "gradients"):
                    ours, theirs = getattr(found, part), getattr(exact[name], part)
                    for one, other in zip(ours, theirs, strict=True):
                        scale = max(1.0, float(torch.as_tensor(other).abs().max()))
                        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11 * scale)
                assert found.counts == (4, 1, 3)  # two kinds of batches; the one that comes five times is recorded
                reduced = [nbytes for call, nbytes in found.calls if call == "all_reduce" and nbytes >= size]
                assert reduced == [size]


def test_other_backends_than_nccl_cannot_be_captured() -> None:
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        ranks = MeshRanks(init_device_mesh("cpu", (1,), mesh_dim_names=("data",)))
        assert ranks.backends(torch.device("cpu")) == {"gloo"}
        message = "the ranks of the mesh communicate by gloo, but CUDA graphs require nccl"
        assert unavailable(torch.device("cuda"), ranks) == message
        assert unavailable(torch.device("cuda")) is None
    finally:
        dist.destroy_process_group()
