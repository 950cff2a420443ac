"""The code of each process in test_ddp.py, in a module that a spawned process can import."""

from __future__ import annotations

import torch
import torch.distributed as dist

import iwae_fast as iw

BATCH, SEED = 6, 3
OBJECTIVES = (
    iw.Objective(iw.bounds.IWAE(), num_samples=4),
    iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=6, budget=3),
    iw.Objective(iw.bounds.IWAE(), "gdreg", num_samples=6, chunk_size=4),
)


def build() -> iw.models.DenseVAE:
    torch.manual_seed(0)
    return iw.models.DenseVAE(16, (4, 2), ((8,), (4,)))


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    x = torch.load(f"{folder}/x.pt")
    shard = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    gradients = []
    for objective in OBJECTIVES:
        wrapped = torch.nn.parallel.DistributedDataParallel(objective.bind(build()))
        wrapped(x[shard], seed=SEED, observation_offset=shard.start).backward()
        gradients.append([p.grad for p in wrapped.parameters()])
    if rank == 0:
        torch.save(gradients, f"{folder}/grads.pt")
    dist.barrier()
    dist.destroy_process_group()
