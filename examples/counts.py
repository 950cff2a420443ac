"""Simulated gene counts in cells, with a zero-inflated negative binomial likelihood and a learned mixture prior.

Run ``python examples/counts.py [epochs]``.
"""

import sys

import torch

import iwae_fast as iw

cells, genes, types = 600, 100, 4
torch.manual_seed(0)
cell_type = torch.randint(types, (cells,))
mean = torch.exp(torch.randn(types, genes)[cell_type] + 0.3 * torch.randn(cells, 1))  # each cell has its own depth
counts = torch.poisson(mean * torch.distributions.Gamma(2.0, 2.0).sample((cells, genes)))  # variance mean + mean^2 / 2
counts *= torch.rand(cells, genes) > 0.2  # counts missed by the measurement
train, test = counts[:500], counts[500:]

model = iw.models.DenseVAE(
    genes,
    (8,),
    (64,),
    likelihood="zero-inflated-negative-binomial",
    prior=iw.models.MixturePrior(types, 8),
    data_mean=train.mean(0),
)
objective = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=10, budget=4)
optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
for epoch in range(epochs):
    for batch in torch.randperm(len(train)).split(50):
        optimizer.zero_grad()
        loss = objective(model, train[batch])
        loss.backward()
        optimizer.step()
    if epoch % 10 == 9:
        print(f"epoch {epoch + 1}: bound {-loss.item():.2f} nats")

nll = -iw.evaluate.log_likelihood(model, test, num_samples=500).mean
drawn = model.likelihood.sample(model.decoder(model.prior_draws(1000, seed=1)))
zeros = [(x == 0).float().mean().item() for x in (counts, drawn)]
print(f"test NLL {nll:.2f} nats; zeros among the counts {zeros[0]:.2f}, among the model's {zeros[1]:.2f}")
