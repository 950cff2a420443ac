"""The benchmarks' own logic: what is refused, what is left out, what is written. No time is asserted."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import fields, replace
from functools import partial
from pathlib import Path

import benchmark_providers as given
import numpy as np
import pytest
import torch

from benchmarks import (
    agreement,
    bernoulli_iwae_loss,
    bernoulli_log_prob,
    captured_step,
    catalogue,
    copy,
    cuda,
    driver,
    evaluation,
    gaussian_log_prob,
    linear_bernoulli_log_prob,
    log_mean_exp,
    memory,
    rows,
    run,
    sample_gaussian,
    training_step,
)
from benchmarks.__main__ import main
from benchmarks.compare import compare
from benchmarks.intervals import ratio_of_medians
from benchmarks.networks import Setting
from benchmarks.rivals import eager
from benchmarks.rows import Row
from benchmarks.summary import summary
from benchmarks.table import table
from benchmarks.work import BASELINE, CPU, Provider, Work, WrongResultError, refuse_if_wrong

TINY = Setting(k=12, batch=3, features=20, hidden=8, latents=4)
ROW = Row(
    op="loss", provider="torch eager", mode="forward", shape="k=5", dtype="float32", metric="seconds",
    median=2e-3, quantile_10=1.9e-3, quantile_90=2.2e-3, rounds=60, bytes=4000, device="a processor", threads=2,
    load=0.5, torch="2.13.0", triton="", iwae_fast="0.1.0", python="3.11.7", isa="avx2", role="rival",
    version="2.13.0", k=5, ratio=4.0, ratio_low=3.9, ratio_high=4.2,
)  # fmt: skip
OURS = replace(
    ROW, provider="iwae_fast cpu", role="ours", median=5e-4, quantile_10=4e-4, quantile_90=6e-4, ratio=None,
    ratio_low=None, ratio_high=None, speedup=4.0, speedup_low=3.9, speedup_high=4.2,
)  # fmt: skip


# What is measured


def test_rounds_are_resampled_jointly() -> None:
    denominator = np.random.default_rng(0).lognormal(0.0, 1.0, 40)
    assert ratio_of_medians(2.0 * denominator, denominator) == pytest.approx((2.0, 2.0, 2.0))


def test_an_interval_covers_the_ratio_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        numerator, denominator = generator.lognormal(np.log([[3.0], [1.0]]), 0.3, (2, 30))
        ratio = ratio_of_medians(numerator, denominator)
        assert ratio.low <= ratio.value <= ratio.high
        covered += ratio.low <= 3.0 <= ratio.high
    assert covered >= 85


def test_means_agree_within_their_errors_only() -> None:
    generator = np.random.default_rng(2)
    truth = {"loss": generator.normal(100.0, 1.0, 40), "other": np.zeros(40)}
    assert not agreement.of_means({"loss": generator.normal(100.0, 1.0, 40)}, truth)
    found = agreement.of_means({"loss": generator.normal(103.0, 1.0, 40)}, truth)
    assert "loss is 10" in found
    assert "standard error" in found
    assert agreement.of_means({"loss": np.full(40, np.nan)}, truth)


def test_what_fails_is_reported_and_left_out() -> None:
    work = given.work(
        Provider("missing", given.not_installed, given.CHECK),
        Provider("failing", given.fails_when_run, given.CHECK),
        Provider("dying", given.dies, given.CHECK),
    )
    said: list[str] = []
    found = driver.measure(work, rounds=2, report=said.append)
    assert [row.provider for row in found] == [BASELINE, "iwae_fast"]
    assert "missing is left out of nothing" in said[0]
    assert "No module named 'no_such_package'" in said[0]
    assert "dying" in said[1]
    assert "exit code 3" in said[1]
    assert said[2].endswith("ValueError: cannot run")


def test_peak_bytes_are_those_of_one_call_above_what_stays() -> None:
    whole = given.work(metric="peak bytes")
    (found,) = driver.measure(replace(whole, providers=whole.providers[:1]), rounds=5)
    assert (found.median, found.rounds) == (1000.0, 1)


def test_on_a_gpu_small_works_are_timed_with_python_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """All but the two clocks, which need one."""
    monkeypatch.setattr(cuda, "DeviceClock", lambda _: lambda: 1e-3)
    monkeypatch.setattr(cuda, "host_clock", lambda _: lambda: 2e-3)
    found = cuda.measure(given.work(), rounds=3)
    assert [row.metric for row in found] == ["seconds"] * 2 + ["seconds with Python"] * 2
    assert [row.median for row in found] == [1e-3, 1e-3, 2e-3, 2e-3]
    assert found[0].rounds == 3
    with pytest.raises(WrongResultError):
        cuda.measure(given.work(Provider("a rival", partial(given.of_factor, 1.1), given.CHECK)), rounds=3)


ALIVE = """
import sys, time
sys.path[:0] = {path!r}
import benchmark_providers as given
from benchmarks.workers import Worker
if __name__ == "__main__":
    workers = [Worker(1), Worker(1)]
    for worker in workers:
        worker.prepare(given.sleeps)
    print(*(worker._process.pid for worker in workers), flush=True)
    workers[0].burst()
"""


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_workers_die_with_the_driver(how: signal.Signals, tmp_path: Path) -> None:
    script = tmp_path / "driver.py"
    script.write_text(ALIVE.format(path=[str(Path(__file__).parent), str(Path(__file__).parents[1])]))
    process = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    assert process.stdout is not None
    pids = [int(pid) for pid in process.stdout.readline().split()]
    assert len(pids) == 2
    process.send_signal(how)
    process.wait(timeout=20)
    deadline = time.monotonic() + 20.0
    while any(alive(pid) for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(alive(pid) for pid in pids)


def alive(pid: int) -> bool:
    """A zombie that nobody has reaped is dead."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


# Who is measured


@pytest.mark.parametrize("name", [provider.name for provider in training_step.providers(TINY)])
def test_every_step_agrees_with_the_reference(name: str) -> None:
    agrees(training_step.works(TINY)[0], name)


@pytest.mark.parametrize(
    "works",
    [
        partial(evaluation.works, TINY),
        partial(memory.step_works, TINY),
        partial(memory.evaluation_works, TINY),
        partial(bernoulli_iwae_loss.works, CPU, 3, 2, 10),
        partial(bernoulli_log_prob.works, CPU, 3, 2, 10),
        partial(bernoulli_log_prob.works, CPU, 3, 2, 10, torch.bfloat16),
        partial(gaussian_log_prob.works, CPU, 3, 2, 10),
        partial(linear_bernoulli_log_prob.works, CPU, 3, 2, 4, 10),
        partial(log_mean_exp.works, CPU, 3, 2),
        partial(sample_gaussian.works, CPU, 3, 2, 4),
        partial(copy.works, CPU, 4000),
    ],
)
def test_every_work_is_done_right(works: Callable[[], list[Work]]) -> None:
    for work in works():
        for provider in work.providers:
            if provider.name != "torch.compile":  # takes long, and is the eager one
                agrees(work, provider.name)


def agrees(work: Work, name: str) -> None:
    (provider,) = (provider for provider in work.providers if provider.name == name)
    try:
        task = provider.prepare()
    except ModuleNotFoundError as error:
        pytest.skip(f"{name}: {error}")
    refuse_if_wrong(work, provider, task.evidence())
    task.run()


def test_a_gradient_that_is_wrong_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss is right, but no gradient reaches the encoder's mean."""
    right = eager.log_weights
    monkeypatch.setattr(eager, "log_weights", lambda decoder, mean, *rest: right(decoder, mean.detach(), *rest))
    work = training_step.works(Setting(k=12, batch=20, features=200, hidden=50, latents=20))[0]
    with pytest.raises(WrongResultError, match="torch eager is wrong in step.*along weight matrix 2 is 0 on average"):
        refuse_if_wrong(work, work.providers[0], work.providers[0].prepare().evidence())


def test_all_works_are_named_and_made_when_their_turn_comes() -> None:
    assert set(catalogue.cpu(quick=True)) <= set(catalogue.cpu()) | {"evaluation k=500"}
    assert "copy" in catalogue.gpu()


# What is written


def test_a_run_writes_its_rows_and_ends_with_an_error_where_a_provider_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    wrong = given.work(Provider("a rival", partial(given.of_factor, 2.0), given.CHECK))
    works = {"wrong": lambda: [wrong], "right": lambda: [given.work()], "not asked for": lambda: [wrong]}
    monkeypatch.setattr(catalogue, "cpu", lambda _: works)
    output = tmp_path / "results" / "tiny.csv"
    assert main(["--rounds", "2", "--only", "^(wrong|right)", "--output", str(output)]) == 1
    said = capsys.readouterr()
    assert said.err.count("error: a rival is wrong in nothing forward n=1 (seconds): result by 1.0e+00") == 1
    assert "| nothing | n=1 | forward | iwae_fast |" in said.out
    with output.open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert list(lines[0]) == [field.name for field in fields(Row)]
    assert [line["provider"] for line in lines] == [BASELINE, "iwae_fast"]
    found = rows.read(output)
    assert (found[0].k, found[0].rounds, found[0].note, found[0].role) == (7, 2, "factor 1.0", "rival")
    assert found[0].ratio_low <= found[0].ratio <= found[0].ratio_high
    assert (found[0].version, found[1].ratio) == (torch.__version__, None)
    assert json.loads(output.with_suffix(".json").read_text())[1]["speedup"] == found[1].speedup


def test_a_run_of_nothing_is_an_error(capsys: pytest.CaptureFixture) -> None:
    assert main(["run", "--only", "no such work"]) == 1
    assert "nothing was measured" in capsys.readouterr().err


def test_rows_survive_their_file_and_older_files_are_read(tmp_path: Path) -> None:
    rows.write([ROW, OURS], tmp_path / "a.csv")
    assert rows.read(tmp_path / "a.csv") == [ROW, OURS]
    (tmp_path / "old.csv").write_text("op,provider,mode,shape,dtype,metric,median,quantile_10,quantile_90,rounds,bytes,"
        "device,threads,load,torch,triton,iwae_fast,python,isa\nloss,torch eager,forward,k=5,float32,seconds,1,1,1,3,0,"
        "a,2,0.5,2.13.0,,0.1.0,3.11.7,avx2\n")  # fmt: skip
    (old,) = rows.read(tmp_path / "old.csv")
    assert (old.median, old.k, old.ratio, old.version) == (1.0, None, None, "")


def test_table() -> None:
    lines = table([ROW, OURS, replace(ROW, metric="peak bytes", median=2.0**21, rounds=1)]).splitlines()
    assert lines[2] == "| loss | k=5 | forward | torch eager | 2.000 ms | 1.900 - 2.200 | 4.00 (3.90 - 4.20) |"
    assert lines[3] == "| loss | k=5 | forward | iwae_fast cpu | 0.500 ms | 0.400 - 0.600 |  |"
    assert lines[4] == "| loss | k=5 | forward | torch eager | 2 MiB |  | 4.00 |"


def test_table_beside_a_copy_has_bandwidths() -> None:
    copied = replace(ROW, op="copy", bytes=8000, median=1e-6)
    lines = table([copied, replace(ROW, bytes=4000, median=1e-6)]).splitlines()
    assert lines[0].endswith("| dtype | GB/s | of copy |")
    assert lines[3].endswith("| float32 | 4 | 50% |")


def test_summary_has_a_line_for_each_of_ours_and_a_column_for_each_rival() -> None:
    budget = replace(OURS, provider="iwae_fast budget=8", role="estimate", median=0.25e-3)
    bound = replace(ROW, provider="products alone", role="bound", median=0.4e-3, ratio=None)
    lines = summary([ROW, OURS, budget, bound, replace(OURS, op="alone")]).splitlines()
    assert lines[0] == "| work | provider | median | torch eager | products alone |"
    assert lines[2:] == [
        "| loss, forward, k=5 | iwae_fast cpu | 0.500 ms | 4.00 (3.90 - 4.20) | 80% |",
        "| loss, forward, k=5 | iwae_fast budget=8 | 0.250 ms | 8.00 | 160% |",
        "| alone, forward, k=5 | iwae_fast cpu | 0.500 ms |  |  |",
    ]


def test_compare_says_conditions_first_and_marks_what_differs() -> None:
    faster = replace(ROW, median=1e-3, quantile_10=0.9e-3, quantile_90=1.2e-3, threads=4, version="2.14.0")
    lines = compare([ROW, OURS], [faster, OURS, replace(ROW, provider="new")]).splitlines()
    assert lines[0] == "another threads: 2 -> 2, 4"
    assert lines[1] == "another version of torch eager: 2.13.0 -> 2.14.0"
    assert lines[2] == "only in the new file: 1 rows"
    assert "| torch eager | 2.000 ms | 1.000 ms | 0.50 | less |" in lines[-2]
    assert "| iwae_fast cpu | 0.500 ms | 0.500 ms | 1.00 |  |" in lines[-1]


def test_commands_read_files(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    pytest.importorskip("matplotlib")
    rows.write(
        [ROW, OURS, replace(OURS, op="step", provider="iwae_fast budget=8", role="estimate")], tmp_path / "a.csv"
    )
    assert main(["table", str(tmp_path / "a.csv")]) == 0
    assert main(["summary", str(tmp_path / "a.csv")]) == 0
    assert main(["compare", str(tmp_path / "a.csv"), str(tmp_path / "a.csv")]) == 0
    assert main(["plot", str(tmp_path / "a.csv"), str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "1.00" in capsys.readouterr().out


def test_a_run_needs_no_more_than_torch() -> None:
    """A machine with a GPU may have neither matplotlib nor a rival."""
    missing = ("matplotlib", "pyro", "pythae", "typer", "rich", "sklearn")
    code = f"import sys\nfor name in {missing}: sys.modules[name] = None\nimport benchmarks.__main__"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_slug() -> None:
    assert run.slug("AMD EPYC family 25") == "amd-epyc-family-25"


def test_steps_are_timed_captured_and_not() -> None:
    ways = (captured_step.one_by_one, captured_step.captured, partial(captured_step.training, images=50))
    assert all(captured_step.microseconds(make(1, "cpu"), "cpu", 0.0) > 0.0 for make in ways)
