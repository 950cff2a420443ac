"""The kernels of densities that copy rows to shared memory: incomplete tiles, and float32 beside 16-bit dtypes."""

from __future__ import annotations

import density_ops
import pytest
import torch
from devices import BACKENDS, run
from torch import Tensor

from iwae_fast.reference import DENSITIES

CUDA = [backend for backend in BACKENDS if backend.values[0] == "cuda"]
SAMPLES, OBSERVATIONS, FEATURES = 7, 20, 40
HALVES = {torch.float32: 1e-6, torch.bfloat16: 2**-8, torch.float16: 2**-11}
"""The relative errors that rounding may cause, per dtype of a gradient."""


def drawn(names: tuple[str, ...], float32: set[int], by_row: set[int], dtype: torch.dtype) -> list[Tensor]:
    """Return a density's tensors: those in `float32` of that dtype, those in `by_row` with an axis of samples."""
    generator = torch.Generator().manual_seed(1)
    made = []
    for number in range(len(names)):
        shape = (SAMPLES, OBSERVATIONS, FEATURES) if number in by_row else (1, OBSERVATIONS, FEATURES)
        tensor = torch.rand(shape, generator=generator)
        made.append(tensor if number in float32 else tensor.to(dtype))
    return made


@pytest.mark.parametrize("backend", CUDA)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("name", DENSITIES)
def test_float32_beside_other_dtypes(backend: str, name: str, dtype: torch.dtype) -> None:
    """Compare with the reference in float64, for any tensor in float32, which differs between the samples or not."""
    op, names = density_ops.LOG_PROBS[f"{name}_log_prob"]
    last = len(names) - 1
    for float32 in ({0}, {last}, set(range(len(names)))):
        for by_row in ({last}, {0, last}):
            tensors = drawn(names, float32, by_row, dtype)
            leaves = [tensor.requires_grad_(number in by_row) for number, tensor in enumerate(tensors)]
            exact = [leaf.detach().double().requires_grad_(leaf.requires_grad) for leaf in leaves]
            result, expected = run(op, *leaves, backend=backend), DENSITIES[name](*exact, None)
            torch.testing.assert_close(result.double(), expected, rtol=1e-5, atol=1e-5)
            upstream = torch.linspace(-1.0, 1.0, expected.numel()).view_as(expected)
            gradients = torch.autograd.grad(result, [leaves[number] for number in sorted(by_row)], upstream)
            of_exact = torch.autograd.grad(expected, [exact[number] for number in sorted(by_row)], upstream.double())
            for ours, theirs in zip(gradients, of_exact, strict=True):
                rtol = HALVES[ours.dtype]
                torch.testing.assert_close(ours.double(), theirs, rtol=rtol, atol=1e-5 if rtol < 1e-5 else rtol)
