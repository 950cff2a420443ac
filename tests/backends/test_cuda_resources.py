"""Compares nvcc's machine code of the CUDA kernels with limits and a committed table; it needs no GPU."""

from __future__ import annotations

import csv
import re
from typing import Any, NamedTuple

import cuda_resources
import density_ops
import pytest

pytestmark = [
    pytest.mark.skipif(cuda_resources.missing() is not None, reason=str(cuda_resources.missing())),
    pytest.mark.slow,
    pytest.mark.machine_code,
]


@pytest.fixture(scope="module")
def table() -> str:
    return cuda_resources.table()


@pytest.fixture(scope="module")
def rows(table: str) -> list[dict[str, Any]]:
    return list(csv.DictReader(table.splitlines()))


def test_the_same_kernels_for_each_architecture(rows: list[dict[str, Any]]) -> None:
    kernels = {sm: {row["kernel"] for row in rows if row["sm"] == sm} for sm in ("80", "90")}
    assert kernels["80"] == kernels["90"]
    assert len(kernels["90"]) > 50


def test_later_architectures_find_code_to_compile() -> None:
    assert "sm_90" in cuda_resources.dump("--list-ptx")


def test_no_spills(rows: list[dict[str, Any]]) -> None:
    """Allow a few spills in float64, which is not tuned for speed."""
    for row in rows:
        assert int(row["spill_bytes"]) <= (64 if "double" in row["kernel"] else 0), row


def test_kernels_wait_for_the_one_ahead_before_they_touch_memory(rows: list[dict[str, Any]]) -> None:
    """Check what makes it safe that launches overlap, which they do from sm_90 on."""
    for row in rows:
        assert row["wait"] == ("first" if row["sm"] == "90" else ""), row


def test_registers_leave_room_for_other_warps(rows: list[dict[str, Any]]) -> None:
    """Check for at most 128 registers: at least 16 of a multiprocessor's 64 warps are then resident."""
    assert [row for row in rows if int(row["registers"]) > 128] == []


def test_shared_memory_leaves_room_for_another_block(rows: list[dict[str, Any]]) -> None:
    """Check that two blocks fit the 100 KiB of the smallest GPUs from sm_80 on; log-weights of a loss take 16 KiB."""
    for row in rows:
        of_log_weights = 16 * 1024 if row["kernel"].startswith("iwae_loss_kernel") else 0
        assert int(row["shared_bytes"]) + of_log_weights <= 48 * 1024, row


def test_copies_under_way_and_instructions(rows: list[dict[str, Any]]) -> None:
    """Count the bytes that the densities' copies have under way per multiprocessor, and their instructions per element.

    At 3 TB/s a multiprocessor of an H100 receives 16 KiB in 700 ns, about the latency of its idle memory: three times
    as much is required. It issues about 38 instructions in the time in which it receives a float32, so fewer than these
    are allowed for each number that is read, except the observation, or written.
    """
    seen = set()
    for row in rows:
        if (copying := Copying.of(row)) is None:
            continue
        assert copying.blocks * copying.places >= 48 * 1024, row
        assert "x16" in row["copies"], row
        kernel = row["kernel"].split("<")[0]
        seen.add(kernel)
        if kernel != "summed_gradient_kernel":  # whose loop has the offsets of rows, with branches that few calls take
            numbers = max(copying.parameters - 1, 1) * (2 if kernel == "gradient_kernel" else 1)
            assert int(row["loop"]) / copying.elements < 38 * copying.item_bytes / 4 * numbers, row
    assert seen == {"log_prob_kernel", "gradient_kernel", "summed_gradient_kernel"}


class Copying(NamedTuple):
    """The resources at a multiprocessor of a kernel of a density that copies its rows."""

    blocks: int
    """The blocks that registers, shared memory and threads allow."""
    places: int
    """The bytes of shared memory per block that are filled by copies which are under way together."""
    parameters: int
    item_bytes: int

    @property
    def elements(self) -> int:
        """The elements of a thread per turn of its loop: those of 16 bytes, in several rows."""
        return self.places // THREADS // self.parameters // self.item_bytes

    @classmethod
    def of(cls, row: dict[str, Any]) -> Copying | None:
        name = row["kernel"]
        if "Copying<" not in name:
            return None
        of_system = 1024 if row["sm"] == "80" else 0  # sm_90 reports it
        of_shared = SHARED_BYTES[row["sm"]] // (int(row["shared_bytes"]) + of_system)
        registers = -(-int(row["registers"]) // 8) * 8
        blocks = min(65536 // (registers * THREADS), of_shared, 2048 // THREADS)
        density = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name.partition("<")[2].partition("Density<")[0]).lower()
        parameters, item_bytes = PARAMETERS[density], 4 if "float, 4" in name else 2
        # Beside 16-bit storage the first row has another copy per parameter, in case that is float32.
        copies = int(row["copies"].partition("x")[0]) - (parameters if item_bytes == 2 else 0)
        return cls(blocks, copies * 16 * THREADS, parameters, item_bytes)


THREADS = 256
SHARED_BYTES = {"80": 164 * 1024, "90": 228 * 1024}
PARAMETERS = {name: len(parameters) for name, parameters in density_ops.PARAMETERS.items()}
PARAMETERS["biased_bernoulli"] = PARAMETERS["bernoulli"] + 1


def test_loads_and_stores_are_wide(rows: list[dict[str, Any]]) -> None:
    """Check the kernels that read rows 16 bytes at a time, and those that write them so."""
    seen = set()
    for row in rows:
        name = row["kernel"]
        if name.startswith("iwae_loss_once_kernel"):  # copies its rows to shared memory; empty for sm_80
            assert row["sm"] == "80" or ("x16" in row["copies"] and "x16" in row["stores"]), row
            continue
        if "Vector<" in name or name.startswith("iwae_loss_kernel"):
            assert "x16" in row["loads"] or "x16" in row["copies"], row
            seen.add(name.split("<")[0])
        if ("Vector<" in name and "gradient" in name) or name.startswith(
            ("iwae_loss", "standard_normal", "sample_gau")
        ):
            assert "x16" in row["stores"] or name.startswith("sample_gaussian_gradient"), row
    assert seen == {"log_prob_kernel", "gradient_kernel", "summed_gradient_kernel", "iwae_loss_kernel"}


def test_table_is_committed(table: str) -> None:
    version = cuda_resources.compiler()
    path = cuda_resources.table_of(version or "unknown")
    if not path.exists():
        pytest.skip(f"no table for nvcc {version} is kept; the limits hold all the same")
    assert table == path.read_text(), "python tests/support/cuda_resources.py --write renews the table"
