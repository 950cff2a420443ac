"""Binary latents, which cannot be reparameterized: the encoder is trained with VIMCO.

Run ``python examples/binary_latents.py [epochs]``.
"""

import sys

import torch
from torch import nn

import iwae_fast as iw
from iwae_fast.data import load
from iwae_fast.experiments.train.fixed_pixels import fixed_test_images

encoder = nn.Sequential(nn.Linear(64, 100), nn.Tanh(), nn.Linear(100, 24))  # logits of q(z = 1 | x)
decoder = nn.Sequential(nn.Linear(24, 100), nn.Tanh(), nn.Linear(100, 64))  # logits of the pixels
model = iw.models.BernoulliVAE(encoder, decoder, latent_dim=24)
objective = iw.Objective(iw.bounds.IWAE(), "vimco", num_samples=10)

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
images = load("digits")
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
for epoch in range(epochs):
    for batch in torch.randperm(len(images.train)).split(50):
        optimizer.zero_grad()
        loss = objective(model, images.train[batch].bernoulli())
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch + 1}: bound {-loss.item():.2f} nats")

nll = -iw.evaluate.log_likelihood(model, fixed_test_images(images), num_samples=500).mean
print(f"test NLL {nll:.2f} nats")
