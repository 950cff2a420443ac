"""A table with a column of names and missing entries: read it, train on what was observed, and fill one row.

Run ``python examples/tabular.py [epochs]``. It needs ``pip install 'iwae_fast[files]'``.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import iwae_fast as iw
from iwae_fast import data

# A table as people have them: three species, six measurements that go together, a tenth of them not taken.
random = np.random.default_rng(0)
species = random.integers(0, 3, 600)
size = random.standard_normal((600, 2)) + 2.0 * species[:, None]
values = size @ random.standard_normal((2, 6)) + 0.1 * random.standard_normal((600, 6))
values[random.random(values.shape) < 0.1] = np.nan
table = pd.DataFrame(values, columns=["length", "width", "height", "mass", "span", "depth"])
table["species"] = np.array(["aster", "bellis", "carduus"])[species]

with tempfile.TemporaryDirectory() as folder:
    table.to_csv(Path(folder) / "plants.csv", index=False)
    plants = data.load(str(Path(folder) / "plants.csv"), labels="species", missing="nan", split=0.2)
print(plants.source, f"features: {', '.join(plants.columns)}")

mean, std = plants.train.nanmean(0), plants.train[~plants.train.isnan().any(1)].std(0)
train, test = (plants.train - mean) / std, (plants.test - mean) / std
model = iw.models.DenseVAE(6, (2,), ((32,),), likelihood="gaussian-learned")
objective = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=20)
optimizer = iw.optim.Adam(model.parameters(), lr=5e-3)
epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 60
for _ in range(epochs):
    for batch in torch.randperm(len(train)).split(48):
        optimizer.zero_grad()
        # The mask makes the bound one of log p(observed): missing entries, NaN, count nothing (Mattei & Frellsen 2019).
        objective(model, train[batch], mask=~train[batch].isnan()).backward()
        optimizer.step()

found = iw.evaluate.log_likelihood(model, test, 1000, mask=~test.isnan())
print(f"test log p(observed entries) {found.mean:.2f} nats per row")
row = test[test.isnan().any(1)][:1]
filled = model.reconstruct(row, mask=~row.isnan()) * std + mean
for name, value, guess in zip(plants.columns, (row * std + mean)[0].tolist(), filled[0].tolist(), strict=True):
    print(f"{name:>7} {value:6.2f}  expected {guess:6.2f}")
