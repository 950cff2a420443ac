"""Simulated gene counts of two types of cells, measured in two batches: a CellVAE with library size and batch as
context, its marginal likelihood, and the genes that the types express differently.

Run ``python examples/single_cells.py [epochs]``.
"""

import sys

import torch

import iwae_fast as iw

cells, genes, changed = 600, 120, 20
generator = torch.Generator().manual_seed(0)


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=generator)


cell_type = torch.randint(2, (cells,), generator=generator)
batch = torch.randint(2, (cells,), generator=generator)
base, effect, batch_effect = normal(genes), torch.zeros(genes), 0.5 * normal(2, genes)
effect[:changed] = torch.where(torch.arange(changed) % 2 == 0, 1.2, -1.2)  # of the natural logarithm
log_share = torch.log_softmax(base + cell_type[:, None] * effect + batch_effect[batch], -1)
depth = torch.exp(7.0 + 0.4 * normal(cells, 1))  # the molecules that are measured of each cell
noise = torch._standard_gamma(torch.full((cells, genes), 3.0), generator=generator) / 3.0  # variance mean + mean^2 / 3
counts = torch.poisson(depth * log_share.exp() * noise, generator=generator)
train, test = torch.arange(cells) < 500, torch.arange(cells) >= 500

torch.manual_seed(1)
model = iw.models.CellVAE(genes, latent_dim=6, hidden_dims=(64,), num_batches=2)
context = model.context_of(counts, batch)
objective = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=8)
optimizer = iw.optim.Adam(model.parameters(), lr=5e-3)
epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 20
for epoch in range(epochs):
    for index in train.nonzero().squeeze(1)[torch.randperm(500)].split(50):
        optimizer.zero_grad()
        loss = objective(model, counts[index], context=[part[index] for part in context])
        loss.backward()
        optimizer.step()
    if epoch % 5 == 4:
        print(f"epoch {epoch + 1}: bound {-loss.item():.2f} nats")

found = iw.evaluate.log_likelihood(model, counts[test], 500, context=[part[test] for part in context], seed=0)
print(f"log p(x) of new cells {found.mean:.2f} nats, k-hat above 0.7 for {(found.pareto_k > 0.7).float().mean():.0%}")
print(f"dispersion theta of the genes {model.likelihood.log_theta.exp().mean():.1f}, simulated with 3.0")

result = iw.evaluate.differential_expression(
    model, counts, cell_type == 1, cell_type == 0, batch=batch, delta=0.5, num_samples=25, num_pairs=2000, seed=0
)
genes_found = result.discoveries(fdr=0.05)
right = genes_found[:changed].sum().item()
print(f"{genes_found.sum().item()} genes found, {right} of them among the {changed} that differ")
