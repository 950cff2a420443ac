"""What each process of test_ddp.py runs: a module of its own, so that a spawned process can import it."""

from __future__ import annotations

import torch
import torch.distributed as dist

import iwae_fast as iw

BATCH, SAMPLES = 6, 4


def build() -> iw.models.DenseVAE:
    torch.manual_seed(0)
    return iw.models.DenseVAE(16, (4,), (8,))


def loss_with_noise_of(model: iw.models.DenseVAE, x: torch.Tensor, observation_offset: int) -> torch.Tensor:
    return iw.iwae_loss(model.log_weights(x, SAMPLES, 3, observation_offset=observation_offset))


class Loss(torch.nn.Module):
    def __init__(self, model: iw.models.DenseVAE, observation_offset: int) -> None:
        super().__init__()
        self.model, self.observation_offset = model, observation_offset

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return loss_with_noise_of(self.model, x, self.observation_offset)


def worker(rank: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    x = torch.load(f"{folder}/x.pt")
    shard = slice(rank * BATCH // 2, (rank + 1) * BATCH // 2)
    wrapped = torch.nn.parallel.DistributedDataParallel(Loss(build(), shard.start))
    wrapped(x[shard]).backward()
    if rank == 0:
        torch.save([p.grad for p in wrapped.parameters()], f"{folder}/grads.pt")
    dist.barrier()
    dist.destroy_process_group()
