"""Tests that the CUDA emulator detects errors of kernels, so that the tests of CUDA kernels on it can fail."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import emulated_cuda
import pytest
from paths import TESTS

FOLDER = TESTS / "cuda_emulator"


@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_wrong_kernels_are_seen(tmp_path: Path) -> None:
    flags = [flag for flag in emulated_cuda.FLAGS if flag not in ("-shared", "-fPIC")]
    program = tmp_path / "selftest"
    subprocess.run(["g++", *flags, f"-I{FOLDER}", "-o", program, FOLDER / "selftest.cpp"], check=True)
    result = subprocess.run([program], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [
        "barrier: right",
        "no barrier: wrong",
        "half come: refused",
        "lanes missing: refused",
        "too much shared memory: refused",
        "no beginning: refused",
        "unwritten: NaN",
        "copies: right",
        "copies without a wait: wrong",
        "copies without a barrier: wrong",
        "copies at the end: refused",
        "copies of each block: right",
        "copies of an earlier block: wrong",
        "barrier of all blocks: ran",
        "no barrier of all blocks: refused",
        "barrier of a block: ran",
        "no barrier of a block: refused",
        "barrier before writing: ran",
        "no barrier before writing: refused",
        "one product: rounded",
        "three products: exact",
        "mail: right",
        "mail without a wait: wrong",
        "mail that never comes: refused",
    ]
