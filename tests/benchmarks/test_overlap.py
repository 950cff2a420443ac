"""Tests of the predicted time of many models side by side, and of the launches that it is computed from."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys

import pytest
from paths import ROOT, TESTS

from benchmarks import overlap
from benchmarks.__main__ import main
from benchmarks.kernel_model import COPY, MULTIPROCESSORS
from benchmarks.overlap import StepLaunch


def test_docs_have_the_prediction(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["overlap"]) == 0
    assert capsys.readouterr().out == f"{overlap.told()}\n"
    shown = overlap.told().removeprefix("predicted, not measured: ").partition(" of the time")[0]
    assert shown in (ROOT / "docs" / "performance.md").read_text().replace("\n", " ")


def test_launches_that_fill_the_gpu_gain_nothing() -> None:
    full = [StepLaunch("full", 2 * MULTIPROCESSORS, 10**6)] * 5
    assert overlap.overlap(full, 8).least == pytest.approx(overlap.overlap(full, 8).in_a_row)


def test_launches_of_one_block_run_beside_others() -> None:
    one = [StepLaunch("one", 1, 1000)] * 5
    found = overlap.overlap(one, 8)
    assert found.most == found.least == pytest.approx(found.in_a_row / 8)  # as long as one model takes alone
    many = overlap.overlap(one, 4 * MULTIPROCESSORS)
    assert many.most == pytest.approx(many.in_a_row / MULTIPROCESSORS)
    assert many.least == pytest.approx(many.most / overlap.RESIDENT)


def test_the_bytes_of_all_models_are_copied() -> None:
    moving = [StepLaunch("moving", 1, 10**9)]
    assert overlap.overlap(moving, 2000).most == pytest.approx(2000 * 10**9 / COPY)


@pytest.mark.slow
@pytest.mark.machine_code
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
def test_table_of_launches_is_committed() -> None:
    script = TESTS / "support" / "step_launches.py"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    made = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True).stdout
    assert made == overlap.TABLE.read_text(), "`python tests/support/step_launches.py --write` renews the table"
