"""The code of each process in the test of a metric, in a module that a spawned process can import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import forkserver
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from linear_gaussian import linear_gaussian
from torch import Tensor

import iwae_fast as iw

SETTINGS: dict[str, Any] = {"num_samples": 40, "seed": 3, "detailed": True}

SHARES = ((0, 4), (4, 9)), ((9, 12), (12, 13), (13, 14))
"""The first and the end of each batch of observations, by rank."""


def model() -> iw.models.VAE:
    found = linear_gaussian()
    with torch.no_grad():
        found.encoder.log_std += 0.4
    return found


def observations() -> Tensor:
    return torch.randn(14, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def on_ranks(folder: Path, empty: bool) -> list[dict[str, Any]]:
    """Return the results of two ranks; the second one has no observations if ``empty``."""
    forkserver.context()
    mp.start_processes(run, (str(folder), empty), nprocs=2, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(2)]


def run(rank: int, folder: str, empty: bool) -> None:
    from iwae_fast.contrib.torchmetrics import NegativeLogLikelihood

    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    metric, own, x = NegativeLogLikelihood(**SETTINGS), NegativeLogLikelihood(**SETTINGS), observations()
    for first, end in () if empty and rank else SHARES[rank]:
        metric.update(model(), x[first:end], observation_offset=first)
        own.update(model(), x[:1].expand(2, 7))
    torch.save({"metric": metric.compute(), "own": own.compute()}, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()
