"""A VAE with your own convolutional encoder and decoder, trained for a few epochs on 8x8 digits.

Run ``python examples/convolutional.py [epochs]``.
"""

import sys

import torch
from torch import Tensor, nn

import iwae_fast as iw
from iwae_fast.data import load
from iwae_fast.experiments.train.fixed_pixels import fixed_test_images


class Encoder(nn.Sequential):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = super().forward(x).chunk(2, dim=-1)
        return mean, log_std


encoder = Encoder(
    nn.Conv2d(1, 32, 3, 2, 1), nn.ELU(), nn.Conv2d(32, 64, 3, 2, 1), nn.ELU(), nn.Flatten(), nn.Linear(256, 32)
)
up = nn.Sequential(nn.ConvTranspose2d(64, 32, 4, 2, 1), nn.ELU(), nn.ConvTranspose2d(32, 1, 4, 2, 1))
decoder = nn.Sequential(nn.Linear(16, 256), nn.ELU(), nn.Unflatten(1, (64, 2, 2)), up)
model = iw.models.VAE(encoder, decoder, latent_dim=16)
objective = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=20, budget=4)

epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 10
images = load("digits")
# Test pixels drawn once from the gray levels, as on the command line, so that NLLs are comparable.
train, test = (part.unflatten(1, (1, 8, 8)) for part in (images.train, fixed_test_images(images)))
optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
for epoch in range(epochs):
    for batch in torch.randperm(len(train)).split(50):
        optimizer.zero_grad()
        loss = objective(model, train[batch].bernoulli())
        loss.backward()
        optimizer.step()
    print(f"epoch {epoch + 1}: bound {-loss.item():.2f} nats")

nll = -iw.evaluate.log_likelihood(model, test, num_samples=500).mean
print(f"test NLL {nll:.2f} nats; samples {tuple(model.sample(12).shape)}")
