"""Accelerate on several processes, with the numbers of one process on the whole batch.

Run ``torchrun --standalone --nproc-per-node 2 examples/with_accelerate.py``. Needs
``pip install iwae_fast[trainers]``.
"""

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch.distributed.device_mesh import init_device_mesh

import iwae_fast as iw

accelerator = Accelerator(cpu=True)
set_seed(0)  # the same parameters and the same data on every process
rank, processes = accelerator.process_index, accelerator.num_processes
mesh = init_device_mesh("cpu", (processes,), mesh_dim_names=("data",)) if processes > 1 else None
x = (torch.rand(100, 64) < torch.rand(64)).float()

model = iw.models.DenseVAE(64, (8,), (32,))
module = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=10).bind(model, mesh=mesh)
module, optimizer = accelerator.prepare(module, torch.optim.Adam(model.parameters(), lr=3e-3))
for step, batch in enumerate(x.split(20) * 4):
    shards = batch.tensor_split(processes)
    first = sum(map(len, shards[:rank]))
    loss = module(shards[rank], seed=step, observation_offset=first)  # that of the batch of 20
    optimizer.zero_grad()
    accelerator.backward(loss)
    optimizer.step()
    if step % 5 == 4:
        accelerator.print(f"step {step + 1}: bound {-loss.item():.4f} nats")
