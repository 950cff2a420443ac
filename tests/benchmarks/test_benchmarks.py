"""Tests of the benchmarks' own logic: wrong results, failing providers, output files. No time is asserted."""

from __future__ import annotations

import csv
import json
import os
import runpy
import signal
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import benchmark_providers as given
import every_kernel
import forkserver
import numpy as np
import pytest
import torch
from host_recorder import TapeRecorder
from paths import ROOT, TESTS

import iwae_fast as iw
from benchmarks import (
    agreement,
    bernoulli_iwae_loss,
    bernoulli_log_prob,
    catalogue,
    copy,
    cuda,
    driver,
    evaluation,
    gaussian_iwae_loss,
    gaussian_log_prob,
    linear_activation,
    linear_bernoulli_iwae_loss,
    linear_bernoulli_log_prob,
    log_mean_exp,
    many_models,
    memory,
    networks,
    ops,
    ours,
    precision,
    rows,
    run,
    sample_gaussian,
    standard_gaussian_log_prob,
    step,
    targets,
    training,
    training_step,
    workers,
)
from benchmarks.__main__ import main
from benchmarks.compare import compare
from benchmarks.fastest import fastest
from benchmarks.intervals import ratio_of_medians
from benchmarks.networks import Convolutional, Setting, TwoLayers
from benchmarks.rivals import captured, eager
from benchmarks.rows import Row
from benchmarks.summary import summary
from benchmarks.table import table
from benchmarks.work import BASELINE, COMPILED, COPIED, CPU, Provider, Work, WrongResultError, refuse_if_wrong
from iwae_fast.backends import NATIVE
from iwae_fast.backends.base import Ops
from iwae_fast.capture import compiled as compiled_networks


@pytest.fixture(autouse=True)
def workers_start_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fork workers from a process that has imported torch: a fresh one takes seconds for that."""
    forkserver.context()
    monkeypatch.setattr(workers, "START_METHOD", "forkserver")


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
    assert not agreement.differing_means({"loss": generator.normal(100.0, 1.0, 40)}, truth)
    found = agreement.differing_means({"loss": generator.normal(103.0, 1.0, 40)}, truth)
    assert "loss is 10" in found
    assert "standard error" in found
    assert agreement.differing_means({"loss": np.full(40, np.nan)}, truth)


def test_a_loss_may_err_by_the_rounding_of_its_log_weights() -> None:
    """Terms of thousands of nats, as narrow scales make them: right is what float32 can give, and no more."""
    torch.manual_seed(0)
    value, mean, log_std = torch.randn(4, 30), torch.randn(5, 4, 30), torch.full((5, 4, 30), -3.0)
    inputs = [value, mean, log_std, torch.randn(5, 4)]
    inputs[3] = inputs[3] - iw.gaussian_log_prob(*inputs[:3])  # so that every sample weighs something

    assert gaussian_log_prob.nats(*inputs[:3]).max() > 5e3
    arguments = (iw.gaussian_iwae_loss, lambda: inputs, "forward+backward", [1, 2, 3])
    truth = ops.truth_with_terms(*arguments, gaussian_iwae_loss.terms)
    found = ops.entries(ops.call(gaussian_iwae_loss.eager, inputs, *arguments[2:]), inputs)
    errors = [abs(found[name] - value).max() / abs(value).max() for name, (value, _) in truth.items()]
    assert max(errors) > 1e-5  # a flat tolerance would have to know how ill-conditioned the loss is
    assert not agreement.differing_entries(found, truth)
    wrong = agreement.differing_entries({**found, "result 2": 1.1 * found["result 2"]}, truth)
    assert wrong.startswith("result 2 by ")
    assert "times what rounding allows" in wrong
    assert agreement.differing_entries({**found, "result 0": found["result 0"] + 0.1}, truth).startswith("result 0 by ")


def of_wrong_values(scale: float, function: Callable[..., Any]) -> Callable[..., Any]:
    return lambda value, *rest: function(scale * value, *rest)


@pytest.mark.parametrize(
    ("works", "scale"),
    [
        (partial(bernoulli_iwae_loss.works, CPU, 50, 4), 1.01),
        (partial(gaussian_iwae_loss.works, CPU, 50, 4), 1.01),
        (partial(linear_bernoulli_iwae_loss.works, CPU, 50, 4), 1.01),
        (partial(linear_activation.works, CPU, 20, 30, 40), 1.01),
        (partial(bernoulli_log_prob.works, CPU, 5, 4), 1.01),
        (partial(bernoulli_log_prob.works, CPU, 5, 4, dtype=torch.bfloat16), 1.5),
        (partial(gaussian_log_prob.works, CPU, 5, 4), 1.01),
        (partial(standard_gaussian_log_prob.works, CPU, 5, 4), 1.01),
        (partial(linear_bernoulli_log_prob.works, CPU, 5, 4), 1.01),
        (partial(log_mean_exp.works, CPU, 50, 4), 1.01),
    ],
)
def test_a_rival_that_is_slightly_wrong_is_refused(works: Callable[[], list[Work]], scale: float) -> None:
    """A result is too large by a few percent, or its first input is by 1 % (bfloat16: half as large again)."""
    for work in works():
        eager_op = next(p for p in work.providers if p.name == BASELINE)
        found = eager_op.prepare().evidence()
        refuse_if_wrong(work, eager_op, found)
        for name in found:
            with pytest.raises(WrongResultError, match=f"{name} by"):
                refuse_if_wrong(work, eager_op, {**found, name: (1.0 + 5.0 * (scale - 1.0)) * found[name]})
        assert isinstance(eager_op.prepare, partial)
        function, *arguments = eager_op.prepare.args
        task = replace(eager_op, prepare=partial(ops.prepare, of_wrong_values(scale, function), *arguments)).prepare()
        with pytest.raises(WrongResultError, match="by"):
            refuse_if_wrong(work, eager_op, task.evidence())


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
    """Test everything except the GPU's clocks, which need a GPU."""
    clocks(monkeypatch)
    found = cuda.measure(given.work(), rounds=3)
    assert [row.metric for row in found] == ["seconds"] * 2 + ["seconds with Python"] * 2
    assert [row.median for row in found] == [1e-3, 1e-3, 2e-3, 2e-3]
    assert (found[0].rounds, found[0].note) == (3, "factor 1.0")
    found = cuda.measure(replace(given.work(), whole=True), rounds=3)
    assert [row.median for row in found] == [4e-3, 4e-3]
    found = cuda.measure(given.work(metric="peak bytes"), rounds=3)
    assert [(row.median, row.rounds) for row in found] == [(500.0, 1), (500.0, 1)]


def clocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "DeviceClock", lambda _: lambda: 1e-3)
    monkeypatch.setattr(cuda, "host_clock", lambda _: lambda: 2e-3)
    monkeypatch.setattr(cuda, "BurstClock", lambda _: lambda: 4e-3)
    monkeypatch.setattr(cuda, "peak_bytes", lambda _: 500)


def test_on_a_gpu_others_are_timed_where_one_is_wrong_or_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    clocks(monkeypatch)

    def cannot_be_captured(run: Callable[[], object]) -> Callable[[], float]:
        run()
        return lambda: 1e-3

    monkeypatch.setattr(cuda, "DeviceClock", cannot_be_captured)
    work = given.work(
        Provider("wrong", partial(given.factor_task, 1.1), given.CHECK),
        Provider("missing", given.not_installed, given.CHECK),
        Provider("failing", given.fails_when_run, given.CHECK),
    )
    said: list[str] = []
    with pytest.raises(WrongResultError, match="wrong is wrong in nothing") as caught:
        cuda.measure(work, 3, said.append)
    assert [row.provider for row in caught.value.rows] == [BASELINE, "iwae_fast"] * 2
    assert [line.split(" is left out")[0] for line in said] == ["missing", "failing"]
    assert said[1].endswith("ValueError: cannot run")


def test_a_burst_is_as_many_calls_as_take_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]

    def run() -> None:
        now[0] += cuda.BURST_SECONDS / 7.5

    monkeypatch.setattr(torch.cuda, "Event", lambda **_: Moment(SimpleNamespace(now=now)))
    clock = cuda.BurstClock(run)
    before = now[0]
    assert clock() == pytest.approx(cuda.BURST_SECONDS / 7.5)
    assert now[0] - before == pytest.approx(8 * cuda.BURST_SECONDS / 7.5)  # one goes ahead and does not count


class VirtualDevice:
    """A device that takes time for calls and for replays, in the place of events and graphs."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.recorded: list[int] = []
        self.replayed = 0
        monkeypatch.setattr(torch.cuda, "Event", lambda **_: Moment(self))
        monkeypatch.setattr(torch.cuda, "current_stream", lambda: SimpleNamespace(device=torch.device("cuda")))
        monkeypatch.setattr(cuda, "CudaGraphs", lambda *_: self)

    def record(self, function: Callable[[], object]) -> SimpleNamespace:
        before, self.calls = self.now, 0
        function()
        self.recorded.append(self.calls)
        taken, self.now = self.now - before, before

        def replay() -> None:
            self.now += taken
            self.replayed += 1

        return SimpleNamespace(replay=replay)

    def call(self, seconds: float) -> Callable[[], None]:
        def run() -> None:
            self.calls = getattr(self, "calls", 0) + 1
            self.now += seconds

        return run


class Moment:
    def __init__(self, device: Any) -> None:
        self.device = device

    def record(self) -> None:
        now = self.device.now
        self.at = now[0] if isinstance(now, list) else now

    def synchronize(self) -> None:
        pass

    def elapsed_time(self, other: Moment) -> float:
        return 1e3 * (other.at - self.at)


@pytest.mark.parametrize(("seconds", "recorded"), [(1e-3, [1]), (30e-6, [1, 7]), (1e-6, [1, cuda.MOST_CALLS])])
def test_short_calls_share_a_graph(seconds: float, recorded: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    device = VirtualDevice(monkeypatch)
    clock = cuda.DeviceClock(device.call(seconds))
    assert device.recorded == recorded
    device.replayed = 0
    assert clock() == pytest.approx(seconds)
    assert device.replayed == cuda.REPLAYS + 1


def test_copies_are_of_several_sizes_and_the_best_is_the_bandwidth() -> None:
    works = copy.works(CPU, [4000, 8000], 40_000)
    assert [(work.mode, work.read, work.bytes, len(work.providers)) for work in works] == [
        ("in a graph", 20_000, 40_000, 2), ("eager", 20_000, 40_000, 1),
        ("in a graph", 16_000, 32_000, 2), ("eager", 16_000, 32_000, 1),
    ]  # fmt: skip
    assert all(work.whole == (work.mode == "eager") for work in works)
    assert min(copy.SIZES) == 64 * 2**20
    assert max(copy.SIZES) == 2**30
    found = [replace(COPY, median=1e-3), replace(COPY, median=0.8e-3), replace(COPY, median=0.9e-3), ROW]
    assert copy.best(found) == pytest.approx(1e10)
    assert copy.best([ROW]) is None


def test_a_copy_that_copies_nothing_is_refused() -> None:
    work, *_ = copy.works(CPU, [40_000], 80_000)
    (provider, _) = work.providers
    found = provider.prepare().evidence()
    assert len(found) == 2
    refuse_if_wrong(work, provider, found)
    with pytest.raises(WrongResultError, match="tensor 1 by"):
        refuse_if_wrong(work, provider, {**found, "tensor 1": np.zeros_like(found["tensor 1"])})


def test_an_op_on_a_gpu_has_a_copy_of_its_bytes_beside_it() -> None:
    assert copy.beside(CPU, 8000) == ()
    (beside,) = copy.beside(torch.device("cuda"), 8000)
    assert (beside.name, beside.role, beside.check) == (COPIED, "bound", None)
    task = copy.prepare(CPU, 4000)
    task.run()
    (only,) = task.evidence().values()
    assert len(only) == 2  # of 1000 floats


def test_what_a_tensor_repeats_is_stored_once() -> None:
    whole = torch.zeros(3, 4, dtype=torch.bfloat16)
    assert ops.stored_bytes([whole, whole.expand(5, 3, 4), torch.zeros(()), whole.T]) == 24 + 24 + 4 + 24


@pytest.mark.parametrize(
    ("works", "read", "written"),
    [
        # value, logits and log_ratio once; loss, and gradients of logits and log_ratio
        (partial(bernoulli_iwae_loss.works, CPU, 3, 2, 10), [20 + 60 + 6], [1 + 60 + 6]),
        (partial(gaussian_iwae_loss.works, CPU, 3, 2, 10), [20 + 120 + 6], [1 + 120 + 6]),
        (partial(bernoulli_log_prob.works, CPU, 3, 2, 10), [80, 160], [6, 66]),
        (partial(gaussian_log_prob.works, CPU, 3, 2, 10), [140, 280], [6, 126]),
        (partial(standard_gaussian_log_prob.works, CPU, 3, 2, 10), [60, 120], [6, 66]),
        (partial(log_mean_exp.works, CPU, 3, 2), [6, 12], [2, 8]),
    ],
)
def test_bytes_of_ops(works: Callable[[], list[Work]], read: list[int], written: list[int]) -> None:
    made = works()
    assert [work.read for work in made] == [4 * n for n in read]
    assert [work.written for work in made] == [4 * n for n in written]
    assert [work.bytes for work in made] == [work.read + work.written for work in made]


def test_columns_of_a_gpu() -> None:
    ours = Provider("iwae_fast cuda", given.not_installed, None, "ours", "iwae_fast")
    named = {name: Provider(name, given.not_installed, None) for name in (COMPILED, f"{COMPILED} captured", COPIED)}
    values = {ours: [2.0, 4.0, 3.0], named[COMPILED]: [9.0] * 3, named[f"{COMPILED} captured"]: [6.0] * 3}
    found = rows.make(given.work(), {**values, named[COPIED]: [1.5] * 3})
    assert [row.of_copy for row in found] == [0.5, 1.5 / 9.0, 0.25, 1.0]
    assert [row.x_compile for row in found] == [2.0, 6.0 / 9.0, 1.0, 4.0]  # what has no role is a rival
    (*_, bound) = rows.make(given.work(), {**values, replace(named[COPIED], role="bound"): [1.5] * 3})
    assert (bound.of_copy, bound.x_compile) == (1.0, None)
    (mine, *_) = rows.make(given.work(), {**values, named[COPIED]: [1.5] * 3}, metric="seconds with Python")
    assert (mine.of_copy, mine.x_compile) == (None, 2.0)
    (mine,) = rows.make(given.work(), {ours: [2.0]})
    assert (mine.of_copy, mine.x_compile) == (None, None)
    (mine, *_) = rows.make(given.work(metric="peak bytes"), values)
    assert mine.x_compile is None


def test_slow_works_have_few_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda, "SECONDS_A_WORK", 0.0)
    (provider,) = given.work().providers[:1]
    assert cuda.alternating({provider: lambda: 1.0}, 200, warmup=2, fewest=3) == {provider: [1.0] * 3}


ALIVE = """
import sys, time
sys.path[:0] = {path!r}
import benchmark_providers as given
import every_kernel
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
    script.write_text(ALIVE.format(path=[str(TESTS / "support"), str(ROOT)]))
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
    """Return True if the process runs; a zombie does not."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")


# Who is measured


@pytest.mark.parametrize("name", [provider.name for provider in training_step.providers(TINY)])
def test_every_step_agrees_with_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # What torch's default backend adds is a minute of its compiler.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
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
        partial(linear_activation.works, CPU, 6, 4, 10),
        partial(log_mean_exp.works, CPU, 3, 2),
        partial(sample_gaussian.works, CPU, 3, 2, 4),
        partial(copy.works, CPU, [4000, 8000], 40_000),
        partial(gaussian_iwae_loss.works, CPU, 3, 2, 10),
        partial(standard_gaussian_log_prob.works, CPU, 3, 2, 10),
        lambda: linear_bernoulli_log_prob.gpu_works(CPU, 3, 2, 4, 10)[1:2],
        lambda: training_step.gpu_works(TINY, launched=True)[:1],
        partial(evaluation.test_set_works, TINY),
    ],
)
def test_every_work_is_done_right(works: Callable[[], list[Work]]) -> None:
    for work in works():
        for provider in work.providers:
            # What is compiled takes long, and is the eager one; what is captured is on a GPU.
            if not provider.name.startswith("torch.compile") and " captured" not in provider.name:
                agrees(work, provider.name)


def agrees(work: Work, name: str) -> None:
    (provider,) = (provider for provider in work.providers if provider.name == name)
    try:
        task = provider.prepare()
    except ModuleNotFoundError as error:
        pytest.skip(f"{name}: {error}")
    refuse_if_wrong(work, provider, task.evidence())
    task.run()


SMALL_NETWORKS = [
    TINY,
    TwoLayers(k=12, batch=3, features=20, hidden=8, latents=6, upper_hidden=5, upper_latents=4),
    Convolutional(k=4, batch=3, channels=(2, 3), latents=4),
]


@pytest.mark.parametrize("setting", SMALL_NETWORKS, ids=["one layer", "two layers", "convolutional"])
@pytest.mark.parametrize("compiled", [False, True])
def test_a_whole_captured_step_agrees_with_the_reference(
    setting: Setting, compiled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded on a tape, whose replays draw new noise, as a CUDA graph's do."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    recorder = TapeRecorder()
    monkeypatch.setattr(captured, "CudaGraphs", lambda device: recorder if device == CPU else None)
    (work, in_tf32) = training_step.gpu_works(setting, launched=True)
    assert (work.dtype, in_tf32.dtype) == ("float32", precision.TF32)
    agrees(work, training_step.WHOLE if compiled else f"{BASELINE} captured")
    assert (recorder.rehearsed, recorder.recorded) == (captured.WARMUP, 1)
    assert recorder.replayed > 20


@pytest.mark.parametrize("label", ["dreg", f"budget={ours.BUDGET}"])
def test_our_captured_estimates_agree_with_the_reference(label: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the step without a graph, which needs a GPU."""
    monkeypatch.setattr(iw, "CapturedStep", given.SeparateStep)
    monkeypatch.setattr(training_step, "backends", lambda _: ["cpu"])
    (work, _) = training_step.gpu_works(replace(TINY, k=ours.BUDGET + 1), launched=True)
    name = f"iwae_fast cpu captured, {label}"
    assert next(provider.role for provider in work.providers if provider.name == name) == "estimate"
    agrees(work, name)


def test_a_captured_step_reads_its_batch_and_moves_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder = TapeRecorder()
    step = captured.step(TINY, compiled=False, recorder=recorder)
    before = [weight.detach().clone() for weight in step.weights]
    first = float(step.take())  # the recording's own
    assert len({first, *(float(step.take()) for _ in range(3))}) == 4
    assert all((weight != old).any() for weight, old in zip(step.weights, before, strict=True))


@pytest.mark.parametrize("setting", SMALL_NETWORKS, ids=["one layer", "two layers", "convolutional"])
def test_the_rivals_networks_are_ours(setting: Setting) -> None:
    model, (encoder, decoder, upper) = networks.vae(setting), networks.networks(setting)
    x, z = networks.observations(setting), torch.randn(5, setting.batch, setting.latents)
    for mine, theirs in zip(model.encoder(x), encoder(x), strict=True):
        torch.testing.assert_close(mine, theirs)
    torch.testing.assert_close(model.decoder(z.flatten(0, 1)).unflatten(0, (5, -1)), decoder(z))
    assert len(upper) == len(model.upper)
    for layer, (layer_encoder, layer_prior) in zip(model.upper, upper, strict=True):
        above = torch.randn(5, 4)
        torch.testing.assert_close(layer.encoder(z[:, 0]), layer_encoder(z[:, 0]))
        torch.testing.assert_close(layer.prior(above), layer_prior(above))


def test_products_are_in_tf32_only_where_the_work_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    def settings() -> tuple[str, bool]:
        return torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32

    before = settings()
    with precision.products_of(precision.TF32):
        assert settings() == ("high", True)
        assert torch.backends.cuda.matmul.fp32_precision == "tf32"  # as this package's kernels read it
        with suppress(ValueError), precision.products_of("float32"):
            assert settings() == ("highest", False)
            raise ValueError("which leaves the block")
        assert settings() == ("high", True)
    assert settings() == before

    seen = []

    def clock(run: Callable[[], object]) -> Callable[[], float]:
        seen.append(settings()[0])
        return lambda: 1e-3

    clocks(monkeypatch)
    monkeypatch.setattr(cuda, "BurstClock", clock)
    for dtype in ("float32", precision.TF32):
        cuda.measure(replace(given.work(), whole=True, dtype=dtype), rounds=1)
    assert seen == ["highest"] * 2 + ["high"] * 2


def test_in_tf32_means_may_differ_by_its_rounding() -> None:
    truth = {"loss": np.array([100.0, 100.001])}
    assert agreement.differing_means({"loss": np.array([100.04, 100.041])}, truth)
    assert not agreement.differing_means({"loss": np.array([100.04, 100.041])}, truth, agreement.TF32_ROUNDOFF)
    assert agreement.differing_means({"loss": np.array([100.1, 100.101])}, truth, agreement.TF32_ROUNDOFF)


class TakenOneByOne:
    """A stand-in for :class:`iwae_fast.CapturedStep` that runs no hooks after two calls, as a graph runs none."""

    reason: str | None = None

    def __init__(
        self, objective: iw.Objective, model: iw.models.DenseVAE, optimizer: torch.optim.Optimizer, *, seed: int
    ) -> None:
        self.objective, self.model, self.optimizer, self.seed = objective, model, optimizer, torch.tensor(seed)

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        parameters = list(self.model.parameters())
        loss = self.objective(self.model, x, seed=self.seed)
        for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
            parameter.grad = gradient
        self.optimizer.step()
        self.seed += 1
        return loss.detach()


def test_a_captured_step_is_looked_at_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(iw, "CapturedStep", TakenOneByOne, raising=False)
    monkeypatch.setattr(torch.optim, "Adam", lambda *_, **__: torch.optim.SGD([torch.nn.Parameter(torch.ones(1))], 0.0))
    work, _ = training_step.gpu_works(TINY)
    agrees(work, "iwae_fast cpu captured")
    monkeypatch.setattr(TakenOneByOne, "reason", "there is no GPU")
    with pytest.raises(ours.NotCapturedError, match="one by one: there is no GPU"):
        agrees(work, "iwae_fast cpu captured")


def test_a_step_may_set_its_gradients_to_zero_at_its_end() -> None:
    """Test a step that ends as those of pyro.infer.SVI do."""
    setting = Setting(k=12, batch=20, features=200, hidden=50, latents=20)
    plain = eager.step(setting)

    def take() -> float:
        loss = float(plain.take())
        for weight in plain.weights:
            weight.grad = torch.zeros_like(weight)
        return loss

    found, expected = step.figures(plain._replace(take=take)), step.truth(setting)
    assert agreement.differing_means(found, expected) == ""


def test_seconds_of_training_are_those_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "dataset", lambda _: "digits")
    found, told = training.measure("cpu", "cpu", 0.4, hidden=((8,),), latent=(2,))
    assert 1 <= len(found) <= training.PARTS
    assert all(0.0 < seconds < 0.4 for seconds in found)
    assert told.startswith("digits, ")


def test_training_of_many_models_is_timed_side_by_side_and_in_a_row(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(training, "dataset", lambda _: "digits")
    small = {"hidden": ((8,),), "latent": (2,)}
    for name in ("measure", "measure_side_by_side"):
        monkeypatch.setattr(training, name, partial(getattr(training, name), **small))
    monkeypatch.setattr(training, "backends", lambda _: ["cpu"])
    output = tmp_path / "rows.csv"
    assert training.main(["--device", "cpu", "--seconds", "0.8", "--models", "3", "--output", str(output)]) == 0
    alone, in_a_row, beside = rows.read(output)
    assert (alone.op, in_a_row.op, beside.op) == ("schedule", "schedule of 3 models", "schedule of 3 models")
    assert (in_a_row.provider, beside.provider) == ("iwae_fast cpu in a row", "iwae_fast cpu side by side")
    assert in_a_row.median == pytest.approx(3 * alone.median)
    assert beside.rounds >= 1


@pytest.mark.filterwarnings("ignore:training steps are run one by one:UserWarning")
@pytest.mark.parametrize("name", [many_models.IN_A_ROW, many_models.SIDE_BY_SIDE])
def test_steps_of_many_models_agree_with_the_reference(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the steps without graphs, which need a GPU."""
    monkeypatch.setattr(many_models, "backends", lambda _: ["cpu"])
    monkeypatch.setattr(ours, "refuse_if_not_captured", lambda _: None)
    (work,) = many_models.works(TINY, models=3)
    agrees(work, f"iwae_fast cpu {name}")


def test_compiled_convolutional_steps_are_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Check the labels, and that a step is the reference's, without a graph and by the compiler's first half."""
    monkeypatch.setattr(compiled_networks, "BACKEND", "aot_eager")
    monkeypatch.setattr(training_step, "backends", lambda _: ["cpu"])
    monkeypatch.setattr(ours, "refuse_if_not_captured", lambda _: None)
    setting = Convolutional(k=ours.BUDGET + 1, batch=3, channels=(2, 3), latents=4)
    work, _ = training_step.gpu_works(setting)
    label = "iwae_fast cpu captured, compile=True"
    offered = {each.name: each.role for each in work.providers if each.name.startswith(label)}
    assert offered == {label: "ours", f"{label}, budget={ours.BUDGET}": "estimate"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # there is no graph on the CPU
        agrees(work, label)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the kernels are not emulated where there is a GPU")
def test_every_kernel_can_be_called_and_what_is_wrong_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = NATIVE["cuda"]
    if backend.unavailable() is not None:
        pytest.skip("there is no compiler for the emulator")
    called: set[str] = set()

    def watched(name: str, op: Callable[..., object]) -> Callable[..., object]:
        return lambda *arguments, **options: called.add(name) or op(*arguments, **options)

    names = {name for name in vars(Ops) if not name.startswith("_")} - {
        "linear_activation",
        "linear_activation_backward",
    }
    for name in names:
        monkeypatch.setattr(backend, name, watched(name, getattr(backend, name)))
    cases = [case for case in every_kernel.cases() if "B=300" not in case.name]
    assert [what for case in cases if (what := every_kernel.wrong(case, "cuda", "cpu"))] == []
    assert called == names
    monkeypatch.setattr(backend, "log_mean_exp", lambda log_weights, dim: log_weights.sum(dim).float())
    case = next(case for case in every_kernel.cases() if "log_mean_exp torch.float32 (7, 3)" in case.name)
    assert "result 0 is off by" in str(every_kernel.wrong(case, "cuda", "cpu"))


def test_a_gradient_that_is_wrong_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Detach the encoder's mean: the loss is right, but its gradient is not."""
    right = eager.log_weights
    monkeypatch.setattr(eager, "log_weights", lambda decoder, mean, *rest: right(decoder, mean.detach(), *rest))
    work = training_step.works(Setting(k=12, batch=20, features=200, hidden=50, latents=20))[0]
    with pytest.raises(WrongResultError, match="torch eager is wrong in step.*along weight matrix 2 is 0 on average"):
        refuse_if_wrong(work, work.providers[0], work.providers[0].prepare().evidence())


def test_all_works_are_named_and_made_when_their_turn_comes() -> None:
    assert set(catalogue.cpu(quick=True)) <= set(catalogue.cpu()) | {"evaluation k=500"}
    assert "copy" in catalogue.gpu()


def test_a_backward_pass_alone_has_the_gradients_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    work = partial(
        ops.op_work, "bernoulli_log_prob", shape="", k=3, ours=iw.bernoulli_log_prob, eager=bernoulli_log_prob.eager,
        inputs=partial(bernoulli_log_prob.inputs, CPU, 3, 2, 10, torch.float32), leaves=[1],
        terms=bernoulli_log_prob.terms,
    )  # fmt: skip
    both, alone = work(mode="forward+backward"), work(mode="backward")
    for whole, part in zip(both.providers, alone.providers, strict=True):
        expected, task = whole.prepare().evidence(), part.prepare()
        assert list(task.evidence()) == ["result 0"]
        for _ in range(2):  # the forward pass is kept
            np.testing.assert_array_equal(task.evidence()["result 0"], expected["result 1"])
    logits, value, result = 3 * 2 * 10 * 4, 2 * 10 * 4, 3 * 2 * 4
    assert alone.bytes == value + 2 * logits
    assert both.bytes == 2 * (value + logits) + result + logits
    (at_once,) = bernoulli_iwae_loss.works(CPU, 3, 2, 10)
    assert at_once.bytes == value + logits + result + 4 + logits + result


# What is found of it


COPY = replace(ROW, op="copy", provider="torch", bytes=8_000_000, median=1e-3)


@pytest.mark.parametrize(
    ("judge", "median", "met", "figures"),
    [
        (targets.copy_bandwidth(0.85), 2e-3, True, "100% of 8 GB/s"),
        (targets.copy_bandwidth(0.85), 2.4e-3, False, "83% of 8 GB/s"),
        (targets.copy_bandwidth(0.2), 2e-3, True, "25% of 32 GB/s"),  # beside it a copy was faster
        (targets.times(4.0), 5e-4, True, "4.00 (0.500 ms; torch eager 2.000 ms)"),
        (targets.times(4.1), 5e-4, False, "4.00 (0.500 ms; torch eager 2.000 ms)"),
        (targets.times(3.0, "theirs", op="step", shape="k=5"), 5e-4, True, "6.00 (0.500 ms; theirs 3.000 ms)"),
        (targets.at_most(1.0), 0.9, True, "900.000 ms"),
        (targets.at_most(1200.0, 9_840_000), 125e-6, False, "20.5 min"),
    ],
)
def test_a_target_is_met_or_not(judge: targets.Judge, median: float, met: bool, figures: str) -> None:
    ours = replace(OURS, median=median, bytes=16_000_000, of_copy=0.25 if "25%" in figures else None)
    theirs = replace(ROW, op="step", provider="theirs", median=3e-3)
    others = replace(theirs, dtype="tf32", median=1.0), replace(theirs, shape="k=1", median=1.0), theirs
    verdict = judge(ours, [COPY, ROW, ours, *others])
    assert verdict == targets.Verdict(met, figures)


def test_the_table_of_targets_says_what_is_missing() -> None:
    judged = [
        targets.Target("fast", targets.times(3.0), "loss", "forward"),
        targets.Target("faster", targets.times(5.0), "loss", "forward", "k=5", providers="iwae_fast cpu"),
        targets.Target("as pyro", targets.times(1.0, "pyro"), "loss", "forward"),
        targets.Target("captured", targets.at_most(1.0), "loss", "forward", suffix="captured"),
        targets.Target("in chunks", targets.at_most(1.0), "loss", "forward", "k=50"),
    ]
    assert targets.table(judged, [ROW, OURS]).splitlines()[2:] == [
        "| fast | iwae_fast cpu float32 | yes | 4.00 (0.500 ms; torch eager 2.000 ms) |",
        "| faster | iwae_fast cpu float32 | NO | 4.00 (0.500 ms; torch eager 2.000 ms) |",
        "| as pyro | iwae_fast cpu float32 | ? | the row to compare with was not measured |",
        "| captured | | ? | not measured |",
        "| in chunks | | ? | not measured |",
    ]


def test_every_target_is_of_a_work_that_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Made at small sizes, on the CPU, with the names that a GPU's have."""
    monkeypatch.setattr(ops, "modes", lambda _: ("forward", "backward", "forward+backward"))
    for module in (bernoulli_log_prob, gaussian_log_prob, standard_gaussian_log_prob, log_mean_exp):
        monkeypatch.setattr(module, "modes", ops.modes)
    monkeypatch.setattr(training_step, "backends", lambda _: ["cuda", "triton"])
    small = [
        *bernoulli_iwae_loss.works(CPU, 50, 2, 4), *gaussian_iwae_loss.works(CPU, 50, 2, 4),
        *bernoulli_log_prob.works(CPU, 3, 2, 4), *gaussian_log_prob.works(CPU, 3, 2, 4),
        *standard_gaussian_log_prob.works(CPU, 3, 2, 4), *log_mean_exp.works(CPU, 3, 2),
        *linear_bernoulli_log_prob.gpu_works(CPU, 3, 2, 4, 10), *training_step.gpu_works(Setting(50), launched=True),
        *evaluation.test_set_works(TINY), *training_step.gpu_works(Setting(1)),
        Work(training.OP, "training", "", (Provider("iwae_fast cuda", given.fails_when_run, None),)),
    ]  # fmt: skip
    made = [
        replace(
            replace(ROW, op=w.op, mode=w.mode, metric=w.metric, provider=p.name),
            shape=w.shape.replace("B=2 ", "B=1024 "),
            dtype=w.dtype.replace(precision.TF32, "float32"),
        )
        for w in small
        for p in w.providers
    ]
    for target in catalogue.GPU_TARGETS:
        target = replace(target, shape="" if target.op == "evaluation" else target.shape)
        assert target.rows(made), target
        assert all(target.judge(row, [COPY, *made]) is not None for row in target.rows(made)), target


# What is written


def test_a_run_writes_its_rows_and_ends_with_an_error_where_a_provider_is_wrong(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    wrong = given.work(Provider("a rival", partial(given.factor_task, 2.0), given.CHECK))
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
    timed = replace(ROW, bytes=4000, median=1e-6, of_copy=0.75, x_compile=1.5)
    others = replace(timed, metric="peak bytes", of_copy=None, x_compile=None), replace(timed, bytes=0, of_copy=None)
    lines = table([copied, replace(copied, median=2e-6), timed, *others]).splitlines()
    assert lines[0].endswith("| dtype | GB/s | of fastest copy | % of copy | x compile |")
    assert lines[3].endswith("| float32 | 4 | 50% |  |  |")
    assert lines[4].endswith("| float32 | 4 | 50% | 75% | 1.50 |")
    assert lines[5].endswith("| float32 |  |  |  |  |")
    assert lines[6].endswith("| float32 |  |  |  | 1.50 |")


def test_the_last_line_counts_the_rows_in_which_we_are_fastest() -> None:
    compiled = replace(ROW, provider=f"{COMPILED} captured", median=1e-3)
    cuda_op, triton_op = (
        replace(OURS, provider=f"iwae_fast {name}", median=m) for name, m in (("cuda", 2e-3), ("triton", 5e-4))
    )
    in_python = [replace(row, metric="seconds with Python") for row in (ROW, replace(cuda_op, median=1e-3), triton_op)]
    slower = [
        replace(row, op="step") for row in (compiled, replace(cuda_op, median=1e-3, provider="iwae_fast cuda captured"))
    ]
    ignored = [
        replace(OURS, op="evaluation", provider="iwae_fast cuda, chunk_size=1000"),
        replace(COPY, role="bound"),
        *(replace(row, metric="peak bytes") for row in (ROW, OURS)),
        replace(ROW, op="only theirs"),
        *(replace(row, op="an estimate", role="estimate" if row is OURS else row.role) for row in (ROW, OURS)),
    ]
    copied = replace(ROW, provider=COPIED, role="bound", median=1e-9)
    found = fastest([ROW, compiled, cuda_op, triton_op, copied, *in_python, *slower, *ignored])
    assert found == (
        "fastest in 2 of 3 rows (cuda in 1 of 3; triton in 2 of 2); torch.compile was measured in 2 of them, and 1 "
        "further rows have no rival"
    )
    assert fastest([]).startswith("fastest in 0 of 0 rows; ")


def test_what_cannot_be_compiled_ahead_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    def cannot_be_made() -> list[Work]:
        raise RuntimeError("no memory")

    bound = Provider("a bound", given.dies, None, role="bound")
    works = {
        "first": cannot_be_made,
        "second": lambda: [given.work(Provider("failing", given.fails_when_run, given.CHECK), bound)],
        "third": cannot_be_made,
    }
    monkeypatch.setattr(catalogue, "gpu", lambda: works)
    assert main(["compile", "--only", "first|second"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "not compiled: first: RuntimeError: no memory"
    assert lines[1].endswith(f"{BASELINE} in nothing forward n=1 (seconds)")
    assert lines[3] == "not compiled: failing in nothing forward n=1 (seconds): ValueError: cannot run"
    assert len(lines) == 4


def test_summary_has_a_line_for_each_of_ours_and_a_column_for_each_rival() -> None:
    budget = replace(OURS, provider="iwae_fast budget=8", role="estimate", median=0.25e-3)
    bound = replace(ROW, provider="products alone", role="bound", median=0.4e-3, ratio=None)
    lines = summary([ROW, OURS, budget, bound, replace(OURS, op="alone", dtype="tf32")]).splitlines()
    assert lines[0] == "| work | provider | median | torch eager | products alone |"
    assert lines[2:] == [
        "| loss, forward, k=5 | iwae_fast cpu | 0.500 ms | 4.00 (3.90 - 4.20) | 80% |",
        "| loss, forward, k=5 | iwae_fast budget=8 | 0.250 ms | 8.00 | 160% |",
        "| alone, forward, k=5, tf32 | iwae_fast cpu | 0.500 ms |  |  |",
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
    assert main(["fastest", str(tmp_path / "a.csv")]) == 0
    assert main(["compare", str(tmp_path / "a.csv"), str(tmp_path / "a.csv")]) == 0
    assert main(["plot", str(tmp_path / "a.csv"), str(tmp_path / "a.png")]) == 0
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert "1.00" in capsys.readouterr().out


def test_a_run_needs_no_more_than_torch() -> None:
    """Run without matplotlib and without rivals, which a machine with a GPU may lack."""
    missing = ("matplotlib", "pyro", "pythae", "typer", "rich", "sklearn")
    code = f"import sys\nfor name in {missing}: sys.modules[name] = None\nimport benchmarks.__main__"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


def test_slug() -> None:
    assert run.slug("AMD EPYC family 25") == "amd-epyc-family-25"


# What a machine with a GPU runs

PYTHON = """#!/usr/bin/env bash
echo "IWAE_FAST_CUDA=${IWAE_FAST_CUDA:-} $IWAE_FAST_CUDA_ARCHITECTURES $*" >>"$CALLS"
case "$*" in
  *get_device_capability*) echo 90 ;;
  *xdist*) exit 1 ;;
  "setup.py "*) [ "$IWAE_FAST_CUDA" = 0 ] || { echo nvcc failed; exit 1; } ;;
  "-m pytest "*) echo "3 passed, 1 failed"; exit 1 ;;
  "-m benchmarks --device cuda"*) echo "error: a provider is wrong" ;;
  "-m benchmarks.training"*) sleep 60 ;;
  "-m benchmarks predict"*) echo "predictions: 0 of 2 rows are off" ;;
  "-m benchmarks targets"*) echo "| a target |" ;;
  "-m benchmarks compile"*) exec sleep 60 ;;
  "-m benchmarks fastest"*) echo "fastest in 1 of 2 rows" ;;
esac
"""


def test_parts_on_a_gpu_do_not_stop_each_other_and_each_ends_in_time(tmp_path: Path) -> None:
    python, calls, out = tmp_path / "python", tmp_path / "calls", tmp_path / "out"
    python.write_text(PYTHON)
    python.chmod(0o755)
    environment = {"PYTHON": str(python), "CALLS": str(calls), "OUT": str(out), "GPU_SECONDS": "3"}
    environment = {**os.environ, **environment, "IWAE_FAST_CUDA_ARCHITECTURES": ""}
    told = subprocess.run(["bash", ROOT / "benchmarks" / "gpu.sh"], env=environment, capture_output=True, text=True)
    assert told.returncode == 1
    *_, target, _, build, without, tests, ops_line, compiled, few, more, trained, watched, closing, last = (
        told.stdout.splitlines()
    )
    assert last == "fastest in 1 of 2 rows"
    assert compiled == "compile: stopped when the tests had ended"
    assert "error: a provider is wrong" in told.stdout
    assert target == "| a target |"
    assert "predictions: 0 of 2 rows are off" in told.stdout
    assert build.startswith("build: exit 1 ")
    assert without.startswith("build-without-cuda: exit 0 ")
    assert tests.startswith("tests: exit 1 ")
    assert ops_line.startswith("tests-of-ops: exit 1 ")
    assert few.startswith("timings: exit 0 ")
    assert more.startswith("timings-steps: exit 0 ")
    assert trained.startswith("training: exit 124 ")
    assert trained.endswith(", CUT SHORT")
    assert watched == "sanitizer: not started, no time left"
    assert closing.endswith(f"logs and results are in {out}")
    assert (out / "tests.log").read_text() == "3 passed, 1 failed\n" * 2
    assert not (out / "tests-of-ops.log").exists()
    made = [line for line in calls.read_text().splitlines() if "setup.py" in line]
    assert [line.split()[:2] for line in made] == [["IWAE_FAST_CUDA=1", "90"], ["IWAE_FAST_CUDA=0", "90"]]


SANITIZER = """#!/usr/bin/env bash
case "$*" in
  --help) echo --kernel-regex ;;
  *memcheck*kns=iwae*) echo "ERROR SUMMARY: 0 errors" ;;
  *racecheck*kns=iwae*) echo "a race"; exit 86 ;;
  *synccheck*kns=iwae*) echo "no barrier" ;;
  *initcheck*kns*) exit 1 ;;
  *initcheck*every_kernel.py*) sleep 60 ;;
esac
"""


def test_tools_that_watch_memory_run_side_by_side(tmp_path: Path) -> None:
    tool = tmp_path / "compute-sanitizer"
    tool.write_text(SANITIZER)
    tool.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    script = ROOT / "benchmarks" / "sanitize.sh"
    told = subprocess.run(["bash", script, "1"], env=environment, capture_output=True, text=True)
    assert told.returncode == 1
    assert told.stdout.splitlines() == [
        "ERROR SUMMARY: 0 errors", "memcheck: exit 0", "a race", "a race", "racecheck: exit 86",
        "no barrier", "synccheck: exit 0", "initcheck: exit 124, stopped after 1 s",
    ]  # fmt: skip


def test_architectures_are_options_of_nvcc(monkeypatch: pytest.MonkeyPatch) -> None:
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **_: None)
    made = runpy.run_path(str(ROOT / "setup.py"))
    monkeypatch.delenv("IWAE_FAST_CUDA_ARCHITECTURES", raising=False)
    assert made["cuda_targets"](made["cuda_architectures"]()) == [
        "-gencode=arch=compute_80,code=sm_80",
        "-gencode=arch=compute_90,code=sm_90",
        "-gencode=arch=compute_90,code=compute_90",
    ]
    monkeypatch.setenv("IWAE_FAST_CUDA_ARCHITECTURES", "90a; 100")
    assert made["cuda_architectures"]() == ["90a", "100"]
    monkeypatch.setenv("IWAE_FAST_CUDA_ARCHITECTURES", "hopper")
    with pytest.raises(setuptools.errors.CompileError, match="hopper"):
        made["cuda_architectures"]()
