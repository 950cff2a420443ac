"""Features that are missing at random, and a feature whose high values are censored: MIWAE and not-MIWAE.

Run ``python examples/missing_features.py [steps]``.
"""

import sys

import torch

import iwae_fast as iw

torch.manual_seed(0)
rows, features = 1000, 4
factor = torch.randn(rows, 1)
x = factor @ torch.tensor([[1.0, 1.0, -1.0, 0.5]]) + 0.3 * torch.randn(rows, features)
steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500


def trained(mask, mechanism=None):
    """Train on the observed features, whatever the others hold."""
    torch.manual_seed(1)
    model = iw.models.DenseVAE(features, (1,), (16,), likelihood="gaussian-learned")
    if mechanism is not None:
        model = iw.models.NotMIWAE.of(model, mechanism)
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=20)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(steps):
        batch = torch.randint(rows, (100,))
        optimizer.zero_grad()
        objective(model, x[batch], mask=mask[batch], seed=step).backward()
        optimizer.step()
    return model


def error(imputed, mask):
    return (imputed - x)[~mask].square().mean().sqrt().item()


mask = torch.rand(rows, features) > 0.3  # True where observed
found = trained(mask).impute(x, mask, num_samples=500, num_draws=20, seed=0)
mean = torch.where(mask, x, (x * mask).sum(0) / mask.sum(0))
spread = found.draws.std(0)[~mask].mean().item()
ours, means = error(found.mean, mask), error(mean, mask)
print(f"at random: RMSE {ours:.3f}, of the column means {means:.3f}; spread of the draws {spread:.3f}")

mask = torch.ones(rows, features, dtype=torch.bool)
mask[:, 0] = x[:, 0] < 0.5  # high values of the first feature are missing
ignoring = error(trained(mask).impute(x, mask, seed=0).mean, mask)
learning = error(trained(mask, iw.models.SelfMasking(features)).impute(x, mask, seed=0).mean, mask)
print(f"censored: RMSE {ignoring:.3f} where the mask is ignored, {learning:.3f} with p(mask | x)")
