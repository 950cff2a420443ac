"""A conditional VAE, p(x | z, y): arguments after x are passed to encoder and decoder as context.

Run ``python examples/conditional.py``.
"""

import torch
from torch import Tensor, nn

import iwae_fast as iw


class Encoder(nn.Linear):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = super().forward(torch.cat([x, y], -1)).chunk(2, dim=-1)
        return mean, log_std


class Decoder(nn.Linear):
    def forward(self, z: Tensor, y: Tensor) -> Tensor:
        return super().forward(torch.cat([z, y], -1))


features, classes, latent = 64, 10, 8
model = iw.models.VAE(Encoder(features + classes, 2 * latent), Decoder(latent + classes, features), latent_dim=latent)
warmup = iw.schedules.LinearWarmup(50)  # raises the weight of the divergence from 0 to 1 in 50 steps
objective = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=10, kl_weight=warmup)
optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
y = torch.eye(classes).repeat(5, 1)  # (B, 10)
x = (torch.rand(len(y), features) < 0.2 + 0.6 * y.argmax(1, keepdim=True) / classes).float()

for step in range(100):
    optimizer.zero_grad()
    loss = objective(model, x, context=(y,), step=step)
    loss.backward()
    optimizer.step()
print(f"log p(x | y) {iw.evaluate.log_likelihood(model, x, 500, context=(y,)).mean:.2f} nats")
print(f"one sample per class: {tuple(model.sample(classes, context=(torch.eye(classes),)).shape)}")
