"""A table of the launches of a training step of the papers' network with Triton's kernels: their blocks, and the bytes
of their tensors. `python -m benchmarks overlap` predicts from it the time of many models side by side. It needs no GPU:
Triton's kernels are neither compiled nor run, and their results stay uninitialized.

    python tests/support/step_launches.py [--write]

prints the table as CSV, or writes it to benchmarks/results/. It must not run under TRITON_INTERPRET, whose tiles are
larger than a GPU's.
"""

from __future__ import annotations

import argparse
import csv
import io
import os
import sys
from collections.abc import Callable, Iterable
from math import prod
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from count_launches import WITHOUT_A_KERNEL, _is_launch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from triton.runtime import JITFunction

import iwae_fast as iw
from benchmarks.overlap import COLUMNS, TABLE
from iwae_fast.backends import ENVIRONMENT, MISSING, NATIVE

ELEMENTS_A_BLOCK = 512
"""Elements per block of torch's elementwise kernels: 128 threads with 4 each."""


class Recorded(TorchDispatchMode):
    """A mode that lists launches, and runs torch's operations but not Triton's kernels."""

    def __init__(self) -> None:
        super().__init__()
        self.launches: list[tuple[str, int, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "iwae_fast":
            with self:
                return func._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, *args, **kwargs)
        result = func(*args, **kwargs)
        if func._schema.name not in WITHOUT_A_KERNEL and _is_launch(func, result, args, kwargs):
            tensors = {id(leaf): leaf for leaf in tree_leaves((result, args, kwargs)) if isinstance(leaf, Tensor)}
            largest = max(tensor.numel() for tensor in tensors.values())
            blocks = -(-largest // ELEMENTS_A_BLOCK)
            self.launches.append((func._opname, blocks, _bytes(tensors.values())))
        return result


def launches() -> list[tuple[str, int, int]]:
    """Return name, blocks and bytes of the launches of a step with k = 50 and a batch of 20."""
    mode = Recorded()

    def recorded(kernel: JITFunction, grid: Any) -> Callable[..., None]:
        def launch(*arguments: Any, **options: Any) -> None:
            found = {leaf.data_ptr(): leaf for leaf in tree_leaves((arguments, options)) if isinstance(leaf, Tensor)}
            mode.launches.append((kernel.fn.__name__, prod(grid), _bytes(found.values())))

        return launch

    os.environ[ENVIRONMENT] = "triton"
    NATIVE["triton"].device, MISSING["triton"] = "cpu", None  # as if it were a GPU
    launch, JITFunction.__getitem__ = JITFunction.__getitem__, recorded
    try:
        model = iw.models.DenseVAE(784, backend="triton")
        objective = iw.Objective(iw.bounds.IWAE(), num_samples=50)
        optimizer = iw.optim.Adam(model.parameters())
        x, seed = torch.zeros(20, 784), torch.tensor(1)
        for _ in range(2):  # the first step allocates the optimizer's state
            mode.launches.clear()
            with mode:
                optimizer.zero_grad()
                objective(model, x, seed=seed).backward()
                optimizer.step()
    finally:
        JITFunction.__getitem__ = launch
    return mode.launches


def _bytes(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors)


def table() -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(launches())
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    Path(TABLE).write_text(table()) if parser.parse_args().write else sys.stdout.write(table())


if __name__ == "__main__":
    main()
