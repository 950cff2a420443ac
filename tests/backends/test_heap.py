from __future__ import annotations

import sys

import pytest
from fresh import run

SCRIPT = """
import resource, torch
from iwae_fast.backends.heap import keep_large_blocks

def faults(tune):
    if tune:
        keep_large_blocks()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        [torch.empty(2**21).fill_(1.0) for _ in range(2)]  # 8 MiB each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(False), faults(True))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is glibc that learns")
def test_freed_blocks_are_used_again() -> None:
    result = run(SCRIPT)
    before, after = map(int, result.stdout.split())
    # Two blocks of 4096 pages of 4 KiB, once; a C library or an allocator that keeps them anyway is as good.
    assert after <= max(before / 4, 5000)


CHUNKS = """
import sys
import torch
import iwae_fast as iw

class Encoder(torch.nn.Module):
    def forward(self, x):
        return x[:, :2], x[:, 2:4]

class Wide(torch.nn.Module):  # large blocks, little arithmetic
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(1000))
    def forward(self, z):
        return torch.tanh(z[:, :1] * self.weight)

model, x = iw.models.VAE(Encoder(), Wide()), torch.rand(20, 1000)

def run(k):
    if sys.argv[1] == "evaluation":
        iw.evaluate.log_likelihood(model, x, k, chunk_size=50, seed=1)
    else:
        budget = 2 if sys.argv[1] == "budget" else None
        objective = iw.Objective(iw.bounds.IWAE(), num_samples=k, budget=budget, chunk_size=50)
        objective(model, x, seed=1).backward()

def peak():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) // 1024 for line in file if line.startswith("VmHWM"))

run(100)
before = peak()
run(500)
few = peak()
for _ in range(int(sys.argv[2])):
    run(1200)
print(few - before, peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is Linux that tells the peak")
@pytest.mark.parametrize("way", ["training", "budget", pytest.param("evaluation", marks=pytest.mark.slow)])
def test_chunks_are_flat_in_resident_memory(way: str) -> None:
    """Bound the growth of training; without :func:`return_free_memory` it is twice as large, and rises with k."""
    result = run(CHUNKS, way, "2")
    few, many = map(int, result.stdout.split())
    # 64 MiB are what may lie free, 8 those of a chunk, 2 what is kept of all samples.
    assert many <= max(few, 64) + 32
