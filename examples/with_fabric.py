"""Lightning's Fabric on several processes, with the numbers of one process on the whole batch.

Run ``python examples/with_fabric.py [processes]``. Needs ``pip install iwae_fast[trainers]``.
"""

import sys

import torch
from lightning.fabric import Fabric
from torch.distributed.device_mesh import init_device_mesh

import iwae_fast as iw

processes = int(sys.argv[1]) if len(sys.argv) > 1 else 2
fabric = Fabric(accelerator="cpu", devices=processes, strategy="ddp")
fabric.launch()
fabric.seed_everything(0, verbose=False)  # the same parameters and the same data on every process
mesh = init_device_mesh("cpu", (processes,), mesh_dim_names=("data",))
x = (torch.rand(100, 64) < torch.rand(64)).float()

model = iw.models.DenseVAE(64, (8,), (32,))
module = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=10).bind(model, mesh=mesh)
module, optimizer = fabric.setup(module, torch.optim.Adam(model.parameters(), lr=3e-3))
for step, batch in enumerate(x.split(20) * 4):
    shards = batch.tensor_split(processes)
    first = sum(map(len, shards[: fabric.global_rank]))
    loss = module(shards[fabric.global_rank], seed=step, observation_offset=first)  # that of the batch of 20
    optimizer.zero_grad()
    fabric.backward(loss)
    optimizer.step()
    if step % 5 == 4:
        fabric.print(f"step {step + 1}: bound {-loss.item():.4f} nats")
