"""Lightning's Trainer on several processes, with the numbers of one process on the whole batch.

Run ``python examples/with_lightning.py [processes]``. Needs ``pip install iwae_fast[trainers]``.
"""

import sys

import lightning
import torch
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.utils.data import DataLoader

import iwae_fast as iw

processes = int(sys.argv[1]) if len(sys.argv) > 1 else 2


class Training(lightning.LightningModule):
    def __init__(self, objective: iw.Objective, model: iw.models.DenseVAE) -> None:
        super().__init__()
        self.parts = objective, model  # in a tuple: parameters are registered once, by configure_model

    def configure_model(self) -> None:  # the processes exist now
        objective, model = self.parts
        mesh = init_device_mesh("cpu", (processes,), mesh_dim_names=("data",))
        self.bound = objective.bind(model, mesh=mesh)

    def training_step(self, x: Tensor, _: int) -> Tensor:
        shards = x.tensor_split(processes)
        first = sum(map(len, shards[: self.global_rank]))
        loss = self.bound(shards[self.global_rank], seed=self.global_step, observation_offset=first)
        if self.global_rank == 0 and self.global_step % 5 == 4:
            print(f"step {self.global_step + 1}: bound {-loss.item():.4f} nats")
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


lightning.seed_everything(0, verbose=False)  # the same parameters and the same data on every process
x = (torch.rand(100, 64) < torch.rand(64)).float()
training = Training(iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=10), iw.models.DenseVAE(64, (8,), (32,)))
trainer = lightning.Trainer(
    accelerator="cpu",
    devices=processes,
    strategy="ddp",
    max_epochs=4,
    use_distributed_sampler=False,  # every process gets the whole batch, and takes its part
    logger=False,
    enable_checkpointing=False,
    enable_progress_bar=False,
    enable_model_summary=False,
)
trainer.fit(training, DataLoader(x, batch_size=20))
