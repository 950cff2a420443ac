"""A table of the launches of each op in `make gpu` on an H100: threads, registers, shared memory, and the instructions
and bytes of a thread. `python -m benchmarks predict` computes times from it. It compiles Triton's kernels for the sizes
of `make gpu`, reads those of CUDA from the built extension, and needs no GPU.

    python tests/support/launch_counts.py [--write]

prints the table as CSV, or writes it to benchmarks/results/. It must not run under TRITON_INTERPRET.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import cuda_resources
import torch
import triton_ops as ops
import triton_resources
from code_paths import Paths, paths
from paths import ROOT
from torch import Tensor
from triton.runtime import JITFunction, driver

ARCHITECTURE = 90
TABLE = ROOT / "benchmarks" / "results" / "launches-sm90.csv"
FIELDS = (
    "backend",
    "op",
    "mode",
    "shape",
    "dtype",
    "kernel",
    "blocks",
    "threads",
    "registers",
    "shared_bytes",
    *(
        f"{part}_{count}"
        for part in ("whole", "turn")
        for count in ("instructions", "special", "read", "written", "waits")
    ),
)
THREADS = 256
"""The threads of a CUDA block, unless a template argument has their number."""

COUNTED = r"(log_prob|gradient|iwae_loss(_once)?)_kernel<.*Density|log_mean_exp|weights_kernel|sample_gaussian"
"""The CUDA kernels that `make gpu` times, of which those in float64 and float16 are left out."""

Work = tuple[str, str, str, str]
"""The op, mode, shape and dtype of a row of results."""


def cases() -> Iterator[tuple[Work, Callable[[], Any]]]:
    """Yield the ops of `make gpu` by row of its results. Tensors are not filled: kernels are compiled, not run."""
    k, d = 50, 784
    for dtype in (torch.float32, torch.bfloat16):
        value, full, rows = densities(2048, dtype)
        shape, name = f"k={k} B=2048 D={d}", str(dtype).removeprefix("torch.")
        yield ("bernoulli_log_prob", "forward", shape, name), partial(ops.bernoulli_log_prob, value, full, None)
        backward = partial(ops.bernoulli_log_prob_backward, rows, value, full, None, [False, True])
        yield ("bernoulli_log_prob", "backward", shape, name), backward
        if dtype == torch.float32:
            scale = torch.empty_like(full)
            gaussian = partial(ops.gaussian_log_prob, value, full, scale, None)
            yield ("gaussian_log_prob", "forward", shape, name), gaussian
            backward = partial(ops.gaussian_log_prob_backward, rows, value, full, scale, None, [False, True, True])
            yield ("gaussian_log_prob", "backward", shape, name), backward
            standard = partial(ops.standard_gaussian_log_prob, full, None)
            yield ("standard_gaussian_log_prob", "forward", shape, name), standard
            backward = partial(ops.standard_gaussian_log_prob_backward, rows, full, None, [True])
            yield ("standard_gaussian_log_prob", "backward", shape, name), backward
    for batch in (1024, 20):
        value, full, rows = densities(batch, torch.float32)
        row = ("bernoulli_iwae_loss", "forward+backward", f"k={k} B={batch} D={d}", "float32")
        one, weights = torch.empty(()), torch.empty_like(rows)
        yield row, partial(ops.bernoulli_iwae_loss, value, full, rows, None, "mean")
        backward = partial(ops.bernoulli_iwae_loss_backward, one, weights, value, full, None, "mean", [False, True])
        yield row, backward
    value, full, rows = densities(1024, torch.float32)
    scale, weights = torch.empty_like(full), torch.empty_like(rows)
    row = ("gaussian_iwae_loss", "forward+backward", f"k={k} B=1024 D={d}", "float32")
    yield row, partial(ops.gaussian_iwae_loss, value, full, scale, rows, None, "mean")
    wanted = [False, True, True]
    yield (
        row,
        partial(ops.gaussian_iwae_loss_backward, torch.empty(()), weights, value, full, scale, None, "mean", wanted),
    )
    columns = 2**20
    log_weights, one = torch.empty(k, columns), torch.empty(columns)
    work = "log_mean_exp", f"k={k} B={columns}", "float32"
    yield (work[0], "forward", *work[1:]), partial(ops.log_mean_exp, log_weights, 0)
    yield (work[0], "backward", *work[1:]), partial(ops.log_mean_exp_backward, one, log_weights, 0)
    b, z = 1024, 50
    mean, log_std, seed = torch.empty(b, z), torch.empty(b, z), torch.tensor(1)
    row = ("sample_gaussian", "forward+backward", f"k={k} B={b} Z={z}", "float32")
    yield row, partial(ops.sample_gaussian, mean, log_std, seed, None, k, 0, 0, 0)
    given = torch.empty(k, b, z), torch.empty(k, b), mean, log_std, seed, None, k, 0, 0, 0, False
    yield row, partial(ops.sample_gaussian_backward, *given)


def densities(batch: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Return an observation (B, D), a parameter (k, B, D) and numbers per row (k, B)."""
    k, d = 50, 784
    return torch.empty(batch, d, dtype=dtype), torch.empty(k, batch, d, dtype=dtype), torch.empty(k, batch)


def counts(found: Paths) -> dict[str, int]:
    parts = (("whole", found.whole), ("turn", found.turn))
    names = ("instructions", "special", "read", "written", "waits")
    return {f"{part}_{name}": getattr(count, name) for part, count in parts for name in names}


def of_triton() -> Iterator[dict[str, Any]]:
    driver.set_active(triton_resources.CompilingDriver(ARCHITECTURE))
    for work, call in cases():
        for kernel, grid in launches(call):
            with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
                file.write(kernel.asm["cubin"])
                file.flush()
                usage = triton_resources.tool("cuobjdump", "--dump-resource-usage", file.name)
                code = triton_resources.tool("cuobjdump", "--dump-sass", file.name)
            yield {
                "backend": "triton",
                **dict(zip(("op", "mode", "shape", "dtype"), work, strict=True)),
                "kernel": kernel.name,
                "blocks": grid[0],
                "threads": 32 * kernel.metadata.num_warps,
                "registers": int(re.findall(r"REG:(\d+)", usage)[-1]),
                "shared_bytes": kernel.metadata.shared,
                **counts(paths(code)),
            }


def launches(call: Callable[[], Any]) -> list[tuple[Any, tuple[int, ...]]]:
    """Return the compiled kernels that a call would launch, with their grids."""
    found: list[tuple[Any, tuple[int, ...]]] = []

    def compile_only(kernel: JITFunction, grid: Any) -> Callable[..., None]:
        return lambda *arguments, **options: found.append((kernel.warmup(*arguments, grid=grid, **options), grid))

    launch = JITFunction.__getitem__
    JITFunction.__getitem__ = compile_only
    try:
        call()
    finally:
        JITFunction.__getitem__ = launch
    return found


def of_cuda(code: str, usage: str) -> Iterator[dict[str, Any]]:
    """Yield the CUDA kernels of two listings of cuobjdump: machine code, and resources."""
    used = {
        name: dict(re.findall(r"(\w+):(\d+)", text))
        for sm, name, text in cuda_resources.by_kernel(usage)
        if sm == ARCHITECTURE
    }
    kernels = [(name, text) for sm, name, text in cuda_resources.by_kernel(code) if sm == ARCHITECTURE]
    for name, (mangled, text) in sorted(zip(readable([name for name, _ in kernels]), kernels, strict=True)):
        if re.match(COUNTED, name) and not re.search(r"double|Float16(?<!BFloat16)|Biased|Single", name):
            threads = re.search(r", (\d{3,})>$", name)
            yield {
                "backend": "cuda",
                "kernel": name,
                "threads": int(threads[1]) if threads else THREADS,
                "registers": int(used[mangled]["REG"]),
                "shared_bytes": int(used[mangled]["SHARED"]),
                **counts(paths(text)),
            }


def readable(mangled: list[str]) -> list[str]:
    """Return demangled names without the class of elementary functions."""
    names = cuda_resources.readable(mangled)
    return [re.sub(r"Math<(\w+)>", r"\1", name) for name in names]


def table() -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(of_cuda(cuda_resources.dump("--dump-sass"), cuda_resources.dump("--dump-resource-usage")))
    writer.writerows(of_triton())
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    Path(TABLE).write_text(table()) if parser.parse_args().write else sys.stdout.write(table())


if __name__ == "__main__":
    main()
