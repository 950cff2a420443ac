"""The fused loss in an existing VAE: only the three lines marked with ``# <-`` change.

Run ``python examples/drop_in.py``.
"""

import torch
from torch import nn

import iwae_fast as iw  # <-

k, batch, features, latent = 50, 20, 784, 50
encoder, decoder = nn.Linear(features, 2 * latent), nn.Linear(latent, features)
optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
x = torch.rand(batch, features).round()

for step in range(100):
    mean, log_std = encoder(x).chunk(2, dim=-1)
    z, log_ratio = iw.sample_gaussian(mean, log_std, num_samples=k)  # <- (k, B, Z), log p(z) - log q(z | x): (k, B)
    logits = decoder(z)  # (k, B, D)
    loss = iw.bernoulli_iwae_loss(x, logits, log_ratio)  # <- the negated IWAE bound, in nats
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 20 == 0:
        print(f"step {step}: bound {-loss.item():.2f} nats")
