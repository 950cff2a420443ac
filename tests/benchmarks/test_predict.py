"""Tests of the predicted times on an H100, and of the counts that they are computed from."""

from __future__ import annotations

import csv
import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import cuda_resources
import pytest
from code_paths import Counts, paths
from paths import ROOT, TESTS

from benchmarks import catalogue, fused_step, kernel_model, predict, rows
from benchmarks.__main__ import main

AT_34CE24D = predict.RESULTS / "launches-sm90-at-34ce24d.csv"
MEASURED = [predict.RESULTS / f"nvidia-h100-at-34ce24d{more}.csv" for more in ("", "-more")]


def test_predictions_are_those_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Check that the committed file is what the command writes."""
    monkeypatch.setattr(predict.write, "__defaults__", (tmp_path / "predicted.csv",))
    monkeypatch.setattr(fused_step.write, "__defaults__", (tmp_path / "steps.csv",))
    assert main(["predict"]) == 0
    told = "`python -m benchmarks predict` renews the predictions"
    assert (tmp_path / "predicted.csv").read_text() == predict.PREDICTED.read_text(), told
    assert (tmp_path / "steps.csv").read_text() == fused_step.RESULTS.read_text(), told


def test_steps_in_one_launch_are_predicted_as_documented() -> None:
    """Check the table of docs/fused-steps.md, and that a step has the operations of its products."""
    documented = (ROOT / "docs" / "fused-steps.md").read_text()
    for samples, batch in fused_step.SIZES:
        network = fused_step.papers_network(samples, batch)
        both = (f"{1e6 * fused_step.seconds(network, products):.0f}" for products in (3, 1))
        assert f"| {samples}, {batch} | {' | '.join(both)} |" in documented
    phases = fused_step.phases(fused_step.plan_of(fused_step.papers_network(50, 20)), 3)
    assert sum(phase.flops for phase in phases) == pytest.approx(1.26e9, rel=0.01)


def test_every_op_of_a_gpu_is_predicted_for_both_backends() -> None:
    predicted = predict.predict(kernel_model.read_counts(predict.COUNTS))
    found = {(each.op, each.provider) for each in predicted}
    ops = {work.func.__module__.removeprefix("benchmarks.") for work in catalogue.gpu().values()}  # type: ignore[attr-defined]
    # No measured row gives the rate of a dense layer's small products.
    expected = ops - {"copy", "training_step", "many_models", "evaluation", "linear_activation"}
    assert found == {(op, f"iwae_fast {backend}") for op in expected for backend in ("cuda", "triton")}
    assert len(predicted) == 2 * len(predict.WORKS)


def test_measured_rows_belong_to_predicted_works() -> None:
    """Check shapes and dtypes against rows that `make gpu` wrote."""
    measured = {row.work[:4] for path in MEASURED for row in rows.read(path) if row.bytes and row.op != "copy"}
    assert measured <= set(predict.WORKS)


def test_the_model_explains_what_was_measured() -> None:
    """Check the errors that docs/benchmarks.md reports, for the kernels that were measured."""
    told = predict.comparison(
        predict.predict(kernel_model.read_counts(AT_34CE24D)), [row for path in MEASURED for row in rows.read(path)]
    )
    errors = told.splitlines()[-1].removeprefix("predictions: ")
    assert errors in (ROOT / "docs" / "benchmarks.md").read_text().replace("\n", " ")


def test_rows_that_are_far_off_are_counted(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", *map(str, MEASURED[:1])]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert "| 1.19 | copy |" in next(line for line in table if "iwae_fast triton" in line)
    assert last.startswith("predictions: ")
    assert " of 10 rows are off by more than 1.3; median error " in last


def kernel(**changes: int) -> kernel_model.Kernel:
    counts = {"instructions": 100, "special": 4, "read": 64, "written": 0, "waits": 1}
    numbers = {"blocks": 0, "threads": 256, "registers": 64, "shared_bytes": 1024} | changes
    return kernel_model.Kernel("cuda", ("",) * 4, "a kernel", **numbers, whole=counts, turn=counts)


def test_a_launch_is_limited_by_what_takes_longest() -> None:
    many = kernel_model.Launch(kernel(), 2**24, 1, 0.0)
    copied, limit = kernel_model.seconds(many._replace(bytes=2.95e9))
    assert limit == "copy"
    assert copied == pytest.approx(1e-3 + kernel_model.LATENCY)
    assert kernel_model.seconds(many._replace(turns=100))[1] == "issue"
    few = many._replace(kernel=kernel(shared_bytes=200 * 1024))
    assert few.kernel.resident == 8
    assert kernel_model.seconds(few)[1] == "latency"
    assert kernel_model.seconds(few)[0] > kernel_model.seconds(many)[0]


@pytest.mark.parametrize(
    ("registers", "resident"),
    [pytest.param(32, 64, id="all warps"), pytest.param(65, 24, id="in steps of 8"), pytest.param(128, 16, id="half")],
)
def test_registers_limit_the_warps_that_are_resident(registers: int, resident: int) -> None:
    assert kernel(registers=registers).resident == resident


LOOP = """
/*0000*/ MOV R1, c[0x0][0x28] ;
/*0010*/ LDG.E.128 R4, [R2] ;
/*0020*/ LDG.E.128 R8, [R2+0x10] ;
/*0030*/ @P0 BRA 0x60 ;
/*0040*/ MUFU.EX2 R4, R4 ;
/*0050*/ FADD R12, R4, R9 ;
/*0060*/ @P1 BRA 0x10 ;
/*0070*/ LDG.E.U8 R3, [R2] ;
/*0080*/ STG.E [R2], R3 ;
/*0090*/ EXIT ;
/*00a0*/ BRA 0xa0;
"""


def test_counts_follow_the_path_with_the_arithmetic() -> None:
    found = paths(LOOP)
    assert found.turn == Counts(6, special=1, read=32, written=0, arithmetic=2, waits=1)
    assert found.whole == Counts(10, special=1, read=32, written=4, arithmetic=2, waits=1)


@pytest.mark.slow
@pytest.mark.machine_code
@pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="Triton is not installed")
@pytest.mark.skipif(cuda_resources.missing() is not None, reason=str(cuda_resources.missing()))
def test_table_of_launches_is_committed() -> None:
    """Compile the kernels again, which takes a minute."""
    script = TESTS / "support" / "launch_counts.py"
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    made = subprocess.run([sys.executable, script], env=environment, capture_output=True, text=True, check=True).stdout
    told = "`python tests/support/launch_counts.py --write` renews the table; then `python -m benchmarks predict`"
    assert list(csv.DictReader(made.splitlines())) == list(csv.DictReader(predict.COUNTS.open())), told
