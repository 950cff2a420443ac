"""Prints how many kernels a training step compiles over many batch sizes and numbers of samples, as JSON.

Needs no GPU; must not run under TRITON_INTERPRET.
"""

from __future__ import annotations

import importlib
import json
from typing import Any

import torch
import triton_ops as ops
from triton.runtime import driver
from triton_resources import CompilingDriver, launches, random

KERNELS = {
    "density_forward": "log_prob_kernel",
    "density_backward": "gradient_kernel",
    "iwae_loss": "weights_kernel",
    "sample_gaussian": "sample_gaussian_kernel",
}
SAMPLES = (50, 5, 7, 64, 1)
BATCHES = (20, 48, 100, 17, 60, 33, 128, 250, 1000, 1)


def step(k: int, batch: int) -> None:
    value, logits, log_ratio = random(batch, 784), random(k, batch, 784), random(k, batch)
    mean, log_std = random(2, batch, 50).unbind()
    ops.bernoulli_iwae_loss(value, logits, log_ratio, None, "mean")
    ops.bernoulli_iwae_loss_backward(random(), log_ratio, value, logits, None, "mean", [False, True])
    ops.sample_gaussian(mean, log_std, torch.tensor(1), None, k, 0, 0, 0)
    ops.sample_gaussian(mean, log_std, torch.tensor(1), torch.zeros(k, batch, dtype=torch.int64), k, 0, 0, 0)


def compiled(architecture: int, file: str, name: str) -> int:
    kernel: Any = getattr(importlib.import_module(f"iwae_fast.kernels.{file}"), name)
    return len(kernel.device_caches[architecture][0])


def main() -> None:
    architecture = 90
    driver.set_active(CompilingDriver(architecture))
    for k in SAMPLES:
        for batch in BATCHES:
            launches(lambda k=k, batch=batch: step(k, batch))
    print(json.dumps({name: compiled(architecture, file, name) for file, name in KERNELS.items()}))


if __name__ == "__main__":
    main()
