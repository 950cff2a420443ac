"""A table of Triton's machine code for the kernels on two GPUs: registers, spills, shared memory, widths of loads and
stores, instructions of tensor cores, and the wait for the kernel ahead. It compiles what the launch wrappers would
launch, and needs no GPU.

    python tests/support/triton_resources.py [--write]

prints the table as CSV, or writes it to benchmarks/results/. It must not run under TRITON_INTERPRET.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import triton
import triton_ops as ops
from paths import ROOT
from sass import wait_for_the_kernel_ahead, widths
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction, driver

TABLE = ROOT / "benchmarks" / "results" / f"triton-{triton.__version__}-resources.csv"
ARCHITECTURES = (80, 90)
FIELDS = (
    "case",
    "kernel",
    "sm",
    "registers",
    "spill_bytes",
    "shared_bytes",
    "loads",
    "stores",
    "tensor_cores",
    "products",
    "wait",
)
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"

TENSOR_CORES = ("HMMA", "HGMMA")
"""The instructions of tensor cores: per warp, and per group of four warps."""

Launch = tuple[str, Any]


class CompilingDriver:
    """A replacement of a GPU's driver: kernels are compiled for its target and never run."""

    def __init__(self, architecture: int) -> None:
        self.target = GPUTarget("cuda", architecture, 32)
        self.device = architecture  # compiled kernels are cached by device number

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> int:
        return self.device

    def get_current_stream(self, _: int | None = None) -> int:
        return 0


def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.rand(shape).to(dtype)


def cases() -> dict[str, Callable[[], Any]]:
    """Return calls by name: the papers' shapes, each dtype, and variants of kernels: masks, broadcasts, alignment."""
    k, b, d, z = 50, 20, 784, 50
    value, log_ratio, weights, seed = random(b, d), random(k, b), random(k, b), torch.tensor(1)
    per_pixel, scalar, mask = random(d), random(), torch.ones(d, dtype=torch.bool)
    mean, log_std, chosen = random(b, z), random(b, z), torch.zeros(k, b, dtype=torch.int64)
    every = [True, True]
    logits = {dtype: random(k, b, d, dtype=dtype) for dtype in (torch.float32, torch.bfloat16, torch.float64)}
    result: dict[str, Callable[[], Any]] = {}
    for dtype, own in logits.items():
        name = str(dtype).removeprefix("torch.")
        x = value.to(dtype)
        result[f"bernoulli_log_prob {name}"] = lambda x=x, own=own: ops.bernoulli_log_prob(x, own, None)
        result[f"bernoulli_log_prob_backward {name}"] = lambda x=x, own=own: ops.bernoulli_log_prob_backward(
            log_ratio, x, own, None, [False, True]
        )
    full = logits[torch.float32]
    result |= {
        "bernoulli_log_prob masked": lambda: ops.bernoulli_log_prob(value, full, mask),
        "bernoulli_log_prob D=100": lambda: ops.bernoulli_log_prob(random(b, 100), random(k, b, 100), None),
        "bernoulli_log_prob D=50": lambda: ops.bernoulli_log_prob(random(b, z), random(k, b, z), None),
        "bernoulli_log_prob transposed": lambda: ops.bernoulli_log_prob(value, random(k, d, b).mT, None),
        "bernoulli_log_prob_backward to both": lambda: ops.bernoulli_log_prob_backward(
            log_ratio, value, full, None, every
        ),
        "gaussian_log_prob": lambda: ops.gaussian_log_prob(value, full, per_pixel, None),
        "gaussian_log_prob_backward to mean": lambda: ops.gaussian_log_prob_backward(
            log_ratio, value, full, per_pixel, None, [False, True, False]
        ),
        "gaussian_log_prob_backward to mean and log_std": lambda: ops.gaussian_log_prob_backward(
            log_ratio, value, full, per_pixel, None, [False, True, True]
        ),
        "standard_gaussian_log_prob": lambda: ops.standard_gaussian_log_prob(full, None),
        "standard_gaussian_log_prob_backward": lambda: ops.standard_gaussian_log_prob_backward(
            log_ratio, full, None, [True]
        ),
        "log_mean_exp": lambda: ops.log_mean_exp(log_ratio, 0),
        "log_mean_exp large": lambda: ops.log_mean_exp(random(k, 4096), 0),
        "log_mean_exp_backward large": lambda: ops.log_mean_exp_backward(random(4096), random(k, 4096), 0),
        "bernoulli_iwae_loss": lambda: ops.bernoulli_iwae_loss(value, full, log_ratio, None, "mean"),
        "bernoulli_iwae_loss_backward": lambda: ops.bernoulli_iwae_loss_backward(
            scalar, weights, value, full, None, "mean", [False, True]
        ),
        "gaussian_iwae_loss": lambda: ops.gaussian_iwae_loss(value, full, per_pixel, log_ratio, None, "mean"),
        "gaussian_iwae_loss_backward": lambda: ops.gaussian_iwae_loss_backward(
            scalar, weights, value, full, per_pixel, None, "mean", [False, True, True]
        ),
        "standard_normal": lambda: ops.standard_normal(seed, None, [k, b, z], 0, 0, 0, torch.float32),
        "sample_gaussian": lambda: ops.sample_gaussian(mean, log_std, seed, None, k, 0, 0, 0),
        "sample_gaussian Z=64": lambda: ops.sample_gaussian(random(b, 64), random(b, 64), seed, None, k, 0, 0, 0),
        "sample_gaussian_backward": lambda: ops.sample_gaussian_backward(
            random(k, b, z), log_ratio, mean, log_std, seed, None, k, 0, 0, 0, False
        ),
        "standard_normal chosen": lambda: ops.standard_normal(seed, chosen, [k, b, z], 0, 0, 0, torch.float32),
        "sample_gaussian chosen": lambda: ops.sample_gaussian(mean, log_std, seed, chosen, k, 0, 0, 0),
        "sample_gaussian chosen Z=64": lambda: ops.sample_gaussian(
            random(b, 64), random(b, 64), seed, chosen, k, 0, 0, 0
        ),
        "sample_gaussian_backward chosen": lambda: ops.sample_gaussian_backward(
            random(k, b, z), log_ratio, mean, log_std, seed, chosen, k, 0, 0, 0, False
        ),
    }
    return result | linear_cases() | layer_cases() | head_cases() | tail_cases() | adam_cases()


def at(precision: str, op: Callable[..., Any], *arguments: Any) -> Any:
    """Call an op with this precision of float32 products."""
    torch.backends.cuda.matmul.fp32_precision = precision
    try:
        return op(*arguments)
    finally:
        torch.backends.cuda.matmul.fp32_precision = "ieee"


def linear_cases() -> dict[str, Callable[[], Any]]:
    """Return calls of a linear layer and its likelihood, for 50 samples of 1024 observations."""
    k, b, h, d = 50, 1024, 200, 784
    mask = torch.ones(d, dtype=torch.bool)
    result: dict[str, Callable[[], Any]] = {}

    def add(name: str, dtype: torch.dtype, precision: str = "ieee", mask: Tensor | None = None) -> None:
        shapes = ((b, d), (k, b, h), (d, h), (d,))
        operands = (*(torch.empty(shape, dtype=dtype) for shape in shapes), mask)

        result[f"linear_bernoulli_log_prob {name}"] = lambda: at(precision, ops.linear_bernoulli_log_prob, *operands)
        result[f"linear_bernoulli_log_prob_and_residual {name}"] = lambda: at(
            precision, ops.linear_bernoulli_log_prob_and_residual, *operands
        )

    add("float32", torch.float32)
    add("tf32", torch.float32, "tf32")
    add("bfloat16 masked", torch.bfloat16, mask=mask)
    return result


LAYERS = {"784 to 200": (20, 784, 200), "200 to 50": (20, 200, 50), "50 to 200": (1000, 50, 200)}
"""Rows, inputs and outputs of layers of the papers' one-layer network at 20 observations and 50 samples."""


def layer_cases() -> dict[str, Callable[[], Any]]:
    """Return forward and backward passes of dense layers, the last of which multiplies rows by coefficients."""
    result: dict[str, Callable[[], Any]] = {}

    def add(name: str, activation: str, sizes: tuple[int, int, int], dtype: torch.dtype, precision: str) -> None:
        rows, inputs, outputs = sizes
        hidden, weight, bias = (torch.empty(s, dtype=dtype) for s in ((rows, inputs), (outputs, inputs), (outputs,)))
        grad = kept = torch.empty(rows, outputs, dtype=dtype)

        def forward() -> None:
            at(precision, ops.linear_activation, hidden, weight, bias, activation, activation in ("gelu", "silu"))

        def backward() -> None:
            arguments = (grad, None if activation == "none" else kept, hidden, weight, activation, [True] * 3)
            at(precision, ops.linear_activation_backward, *arguments, *coefficients)

        coefficients = (torch.empty(rows),) * 2 if outputs == 784 else (None, None)
        result[f"layer {name}"] = forward
        result[f"layer_backward {name}"] = backward

    for name, sizes in LAYERS.items():
        add(f"{name} {sizes[0]} rows", "none" if sizes[2] == 50 else "tanh", sizes, torch.float32, "ieee")
    square = (1000, 200, 200)
    for activation in ("tanh", "gelu"):
        add(f"{activation} 200 to 200 1000 rows", activation, square, torch.float32, "ieee")
    add("200 to 200 1000 rows tf32", "tanh", square, torch.float32, "tf32")
    add("200 to 200 1000 rows bfloat16", "silu", square, torch.bfloat16, "ieee")
    add("200 to 784 1000 rows", "none", (1000, 200, 784), torch.float32, "ieee")
    add("200 to 784 10000 rows", "relu", (10_000, 200, 784), torch.float32, "ieee")
    return result


def head_cases() -> dict[str, Callable[[], Any]]:
    """Return forward and backward passes of the two heads of an encoder."""
    result: dict[str, Callable[[], Any]] = {}
    for rows in (20, 1000):
        hidden, weights, biases = torch.empty(rows, 200), [torch.empty(50, 200)] * 2, [torch.empty(50)] * 2
        grads = [torch.empty(rows, 50)] * 2
        heads = partial(ops.linear_heads, hidden, weights, biases)
        result[f"layer heads 200 to 50 {rows} rows"] = heads
        result[f"layer_backward heads 200 to 50 {rows} rows"] = partial(
            ops.linear_heads_backward, grads, hidden, weights, [True] * 5
        )
    return result


def tail_cases() -> dict[str, Callable[[], Any]]:
    """Return the ends of losses, of a bound's own gradient and of DReG, and their gradients."""
    result: dict[str, Callable[[], Any]] = {}
    for name, (linear, quadratic) in {"own": (1.0, 0.0), "dreg": (0.0, 1.0)}.items():
        for k, b in ((50, 20), (50, 100), (50, 1024), (500, 20)):
            terms = [torch.empty(k, b)] * 2
            result[f"weight_scales {name} k={k} B={b}"] = partial(
                ops.weight_scales, terms, 1.0, 1.0, 1, linear, quadratic, 1e-8, "mean"
            )
    scales = [torch.empty(50, 20)] * 2
    result["scaled_gradients"] = partial(ops.scaled_gradients, scales, torch.empty(()), [1.0, 1.0])
    return result


def adam_cases() -> dict[str, Callable[[], Any]]:
    """Return steps of Adam for the papers' one-layer network."""
    widths = ((784, 200), (200, 200), (200, 50), (200, 50), (50, 200), (200, 200), (200, 784))
    shapes = [shape for inputs, outputs in widths for shape in ((outputs, inputs), (outputs,))]

    def step(dtype: torch.dtype, clipped: bool = False) -> None:
        four = [[torch.empty(shape, dtype=dtype) for shape in shapes] for _ in range(4)]
        steps = [torch.zeros(()) for _ in shapes]
        squares = ops.sum_squares(four[1]) if clipped else None
        numbers = (0.0, 0.9, 0.999, 1e-8, 0.0, False, False, False, 1.0 if clipped else None)
        ops.adam(*four, steps, torch.zeros(()), *numbers, None, None, squares, torch.zeros((), dtype=torch.int32))

    return {
        "adam float32": lambda: step(torch.float32),
        "adam bfloat16": lambda: step(torch.bfloat16),
        "adam float64": lambda: step(torch.float64),
        "adam float32 clipped": lambda: step(torch.float32, clipped=True),
    }


def launches(call: Callable[[], Any]) -> list[Any]:
    """Return the compiled kernels that a call would launch."""
    compiled: list[Any] = []

    def compile_only(kernel: JITFunction, grid: Any) -> Callable[..., None]:
        return lambda *arguments, **options: compiled.append(kernel.warmup(*arguments, grid=grid, **options))

    launch = JITFunction.__getitem__
    JITFunction.__getitem__ = compile_only
    try:
        call()
    finally:
        JITFunction.__getitem__ = launch
    return compiled


def resources(kernel: Any) -> dict[str, Any]:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        usage = tool("cuobjdump", "--dump-resource-usage", file.name)
        code = tool("nvdisasm", "-c", file.name)
    used = dict(re.findall(r"(\w+):(\d+)", usage.splitlines()[-1]))
    return {
        "registers": int(used["REG"]),
        "spill_bytes": int(used["STACK"]) + int(used["LOCAL"]),
        "shared_bytes": kernel.metadata.shared,
        "loads": widths(code, "LDG(?:STS)?"),  # to registers or, asynchronous, to shared memory
        "stores": widths(code, "STG"),
        "tensor_cores": " ".join(name for name in TENSOR_CORES if re.search(rf"\b{name}\b", code)),
        "products": products(kernel.asm["ttir"]),
        "wait": wait_for_the_kernel_ahead(code),
    }


def products(code: str) -> str:
    """Return the number of tile products that start from zero and from a previous sum, such as "1 zero 1 sum"."""
    starts = Counter(
        "zero" if start.startswith("%cst") else "sum" for start in re.findall(r"tt\.dot \S+ \S+ (%\w+)", code)
    )
    return " ".join(f"{count} {start}" for start, count in sorted(starts.items(), reverse=True))


def tool(name: str, *arguments: str) -> str:
    return subprocess.run([TOOLS / name, *arguments], capture_output=True, text=True, check=True).stdout


def rows(architectures: Sequence[int]) -> Iterator[dict[str, Any]]:
    for architecture in architectures:
        driver.set_active(CompilingDriver(architecture))
        for name, call in cases().items():
            for kernel in launches(call):
                yield {"case": name, "kernel": kernel.name, "sm": architecture, **resources(kernel)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--sm", type=int, action="append", choices=ARCHITECTURES, help="only this architecture")
    given = parser.parse_args()
    if given.write and given.sm:
        parser.error("--write is of all architectures")
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows(given.sm or ARCHITECTURES))
    TABLE.write_text(text.getvalue()) if given.write else sys.stdout.write(text.getvalue())


if __name__ == "__main__":
    main()
