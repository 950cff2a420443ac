"""Compares Triton's machine code of the kernels with limits and a committed table; it needs no GPU."""

from __future__ import annotations

import csv
import importlib.util
import json
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
from paths import ROOT, TESTS

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed"),
    pytest.mark.slow,
    pytest.mark.machine_code,
]

SCRIPT = TESTS / "support" / "triton_resources.py"
RESULTS = ROOT / "benchmarks" / "results"

UNALIGNED = {
    "bernoulli_log_prob D=50": "rows of 200 bytes begin on 8",
    "bernoulli_log_prob transposed": "neighbouring features are not neighbours in memory",
    "log_mean_exp": "20 columns, of whose number small calls assume nothing",
    "standard_normal": "rows of 200 bytes",
    "sample_gaussian": "rows of 200 bytes",
    "sample_gaussian_backward": "rows of 200 bytes",
    "standard_normal chosen": "rows of 200 bytes",
    "sample_gaussian chosen": "rows of 200 bytes",
    **dict.fromkeys(
        ("adam float32", "adam bfloat16", "adam float32 clipped"), "one of the tensors of a launch has 50 numbers"
    ),
    "sample_gaussian_backward chosen": "rows of 200 bytes",
}
"""Cases whose loads or stores are not 16 bytes wide, with the reason."""

KIBIBYTES = 1024
SHARED_BYTES = {"80": 163 * KIBIBYTES, "90": 227 * KIBIBYTES}
"""Shared memory of a multiprocessor that one program may use, per architecture."""


def compile_with(script: Path, *arguments: str) -> str:
    """Run a script that compiles kernels, with the interpreter off, and return its output."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    result = subprocess.run(
        [sys.executable, script, *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture(scope="module", params=["80", "90"])
def architecture(request: pytest.FixtureRequest) -> str:
    """Return an architecture; compiling for each takes a minute."""
    return request.param


@pytest.fixture(scope="module")
def rows(architecture: str) -> list[dict[str, str]]:
    return list(csv.DictReader(compile_with(SCRIPT, "--sm", architecture).splitlines()))


def test_no_spills(rows: list[dict[str, str]]) -> None:
    assert rows
    assert [row for row in rows if row["spill_bytes"] != "0"] == []


def test_kernels_wait_for_the_one_ahead_before_they_touch_memory(rows: list[dict[str, str]]) -> None:
    """Check what makes it safe that launches overlap, which they do from sm_90 on."""
    for row in rows:
        assert row["wait"] == ("first" if row["sm"] == "90" else ""), row


def is_linear(row: dict[str, str]) -> bool:
    return row["case"].startswith("linear") and row["kernel"] != "sum_kernel"


def is_layer(row: dict[str, str]) -> bool:
    """Return True for the products of dense layers with an activation."""
    return row["case"].startswith("layer") and row["kernel"] != "sum_kernel"


def test_registers_leave_room_for_other_warps(rows: list[dict[str, str]]) -> None:
    """Check for at most 128 registers: 16 of a multiprocessor's 64 warps are then resident, enough for its memory.

    Matrix products are another matter: the more of their operands and sums stand in registers, the fewer times these
    are read, and their loads are asynchronous. They may have all 255 of a thread.
    """
    assert [row for row in rows if int(row["registers"]) > (255 if is_linear(row) or is_layer(row) else 128)] == []


def test_shared_memory_holds_two_programs(rows: list[dict[str, str]]) -> None:
    assert [row for row in rows if 2 * int(row["shared_bytes"]) > SHARED_BYTES[row["sm"]]] == []


def test_matrix_products_run_on_tensor_cores(rows: list[dict[str, str]]) -> None:
    """Check for the instructions of four warps (HGMMA) on sm_90."""
    linear = [row for row in rows if is_linear(row)]
    assert len(linear) == 6
    for row in linear:
        assert row["tensor_cores"] == ("HGMMA" if row["sm"] == "90" else "HMMA"), row
        assert "x16" in row["loads"], row
    layers = [row for row in rows if is_layer(row)]
    assert len(layers) == 22
    for row in layers:  # small tiles are products of single warps, in parts
        groups = row["sm"] == "90" and ("10000 rows" in row["case"] or row["case"] == "layer 200 to 784 1000 rows")
        assert row["tensor_cores"] == ("HGMMA" if groups else "HMMA"), row
        assert ("x8" if row["case"] == "layer 50 to 200 1000 rows" else "x16") in row["loads"], row
    assert {row["tensor_cores"] for row in rows if not is_linear(row) and not is_layer(row)} == {""}


def test_float32_is_added_up_outside_of_tensor_cores(rows: list[dict[str, str]]) -> None:
    """Check that the compiler did not fuse product and sum in float32, which the interpreter would not show."""
    for row in rows:
        if is_linear(row):
            assert ("sum" in row["products"]) == (not row["case"].endswith("float32")), row
            assert row["products"], row
        if is_layer(row):
            assert ("sum" in row["products"]) == row["case"].endswith(("tf32", "bfloat16")), row
            assert row["products"], row


def is_small(row: dict[str, str]) -> bool:
    """Return True for kernels of one number per log-weight, whose loads assume nothing of their number."""
    name = row["case"].split()[0]
    return row["kernel"] in ("weights_kernel", "sum_kernel") or name in ("weight_scales", "scaled_gradients")


def test_loads_and_stores_are_wide(rows: list[dict[str, str]]) -> None:
    """Check that parameters are read, and gradients written, 16 bytes at a time where alignment allows."""
    for row in rows:
        if row["case"] in UNALIGNED or is_small(row):
            continue
        if is_linear(row) or is_layer(row):  # observations and biases are read as the products lie in registers
            continue
        assert "x16" in row["loads"], row
        _, *narrow = row["loads"].split()
        # What is read one number at a time is one a row: coefficients, and masks four at once.
        rest = sum(int(part.split("x")[0]) for part in narrow)
        assert rest <= 16, row
        if "backward" in row["case"] or "Z=64" in row["case"]:
            assert "x16" in row["stores"], row


def test_table_is_committed(rows: list[dict[str, str]], architecture: str) -> None:
    path = RESULTS / f"triton-{version('triton')}-resources.csv"
    if not path.exists():
        pytest.skip(f"no table for triton {version('triton')} is kept; the limits hold all the same")
    kept = [row for row in csv.DictReader(path.read_text().splitlines()) if row["sm"] == architecture]
    assert rows == kept, f"python {SCRIPT.relative_to(Path.cwd())} --write renews the table"


def test_batch_sizes_share_kernels() -> None:
    """Launch 50 pairs of B and k; only a B divisible by 16, or of 1, compiles another kernel."""
    compiled = json.loads(compile_with(SCRIPT.with_name("triton_variants.py")))
    assert max(compiled.values()) <= 4, compiled
