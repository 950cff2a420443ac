"""Distributed data parallel on two CPU processes gives the gradient of the whole batch."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from ddp_worker import BATCH, build, loss_with_noise_of, worker

pytestmark = pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo")


def test_two_processes_are_one_batch(tmp_path: Path) -> None:
    x = torch.rand(BATCH, 16)
    torch.save(x, tmp_path / "x.pt")
    mp.spawn(worker, (str(tmp_path),), nprocs=2)
    model = build()
    loss_with_noise_of(model, x, 0).backward()
    torch.testing.assert_close(torch.load(tmp_path / "grads.pt"), [p.grad for p in model.parameters()])
