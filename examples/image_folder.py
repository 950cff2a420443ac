"""Color images in folders of classes: read them, train, and reconstruct each class.

Run ``python examples/image_folder.py [epochs]``. It needs ``pip install 'iwae_fast[files]'``. The same from the command
line: ``iwae-fast train --data FOLDER --likelihood continuous-bernoulli``.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import iwae_fast as iw
from iwae_fast import data

# 12 x 12 pictures of a disk, red or green, at a random place, in one folder per color.
random = np.random.default_rng(0)
down, across = np.mgrid[:12, :12]
with tempfile.TemporaryDirectory() as folder:
    for channel, name in enumerate(("red", "green")):
        (Path(folder) / name).mkdir()
        for number in range(150):
            at = random.uniform(3, 9, 2)
            disk = 1 / (1 + np.exp(2 * (np.hypot(down - at[0], across - at[1]) - 2.5)))
            picture = np.full((12, 12, 3), 30.0)
            picture[..., channel] += 200 * disk
            Image.fromarray(picture.astype(np.uint8)).save(Path(folder) / name / f"{number:03}.png")
    images = data.load(folder, split=0.2)
print(f"{len(images.train)} training images of shape {images.image_shape}")

model = iw.models.DenseVAE(
    images.train.shape[1],  # height x width x 3
    (4,),
    ((64,),),
    likelihood="continuous-bernoulli",  # a density on [0, 1]
    data_mean=images.train.mean(0),
)
objective = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=10)
optimizer = iw.optim.Adam(model.parameters(), lr=5e-3)
epochs = int(sys.argv[1]) if len(sys.argv) > 1 else 40
for _ in range(epochs):
    for batch in torch.randperm(len(images.train)).split(24):
        optimizer.zero_grad()
        objective(model, images.train[batch]).backward()
        optimizer.step()

found = iw.evaluate.log_likelihood(model, images.test, 500)
print(f"test log p(x) {found.mean:.1f} nats per image")
for name in ("red", "green"):
    own = torch.from_numpy(images.labels["test"] == name)
    color = model.reconstruct(images.test[own]).unflatten(1, images.image_shape).mean((0, 1, 2))
    print(
        f"{name}: {int(own.sum())} images, mean color of their reconstructions {[round(c, 2) for c in color.tolist()]}"
    )
