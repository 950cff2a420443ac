"""Tests that distributed data parallel on two CPU processes gives the gradient of the whole batch."""

from __future__ import annotations

from pathlib import Path

import forkserver
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ddp_worker import BATCH, OBJECTIVES, SEED, build, worker

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo")


def test_two_processes_are_one_batch(tmp_path: Path) -> None:
    x = torch.rand(BATCH, 16)
    torch.save(x, tmp_path / "x.pt")
    forkserver.context()
    mp.start_processes(worker, (str(tmp_path),), nprocs=2, start_method="forkserver")
    for objective, gradients in zip(OBJECTIVES, torch.load(tmp_path / "grads.pt"), strict=True):
        model = build()
        objective(model, x, seed=SEED).backward()
        torch.testing.assert_close(gradients, [p.grad for p in model.parameters()])
