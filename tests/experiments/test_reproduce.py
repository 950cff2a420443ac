"""Tests of reproducing the papers' tables: their runs, and running them."""

import json
import re
import shutil
from pathlib import Path

import pytest
from runs_here import run_here

from iwae_fast.experiments.cli import main
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.many.runner import RunError, Runner
from iwae_fast.experiments.protocols import passes
from iwae_fast.experiments.reproduce.outcome import outcome
from iwae_fast.experiments.reproduce.published import IWAE, VAE, Figure
from iwae_fast.experiments.reproduce.scales import SCALES, Scale
from iwae_fast.experiments.reproduce.tables import TABLES, Entry, RunOfTable, run_of
from iwae_fast.experiments.reproduce.work import TableWork, when_ready, with_ancestors
from iwae_fast.experiments.setting_text import flags

TINY = Scale(stages=1, epochs=1, trials=1, ks=(1,), k=3, observations=10, further=5)


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("table", TABLES)
def test_every_run_has_settings_that_go_together(table: str, scale: str) -> None:
    for entry in TABLES[table].entries(SCALES[scale]):
        for run in entry.runs:
            settings = {**(run.after.settings if run.after else {}), **run.settings}
            config = TrainConfig.preset(**settings)
            assert config.dataset == entry.dataset
            if run.after is not None:
                assert not config.differences(TrainConfig.preset(**run.after.settings))
                assert config.epochs > run.after.settings["epochs"]


def test_one_name_is_one_run_in_every_table() -> None:
    for scale in SCALES.values():
        known: dict[str, dict] = {}
        for table in TABLES.values():
            for entry in table.entries(scale):
                for run in entry.runs:
                    assert known.setdefault(run.name, run.settings) == run.settings


def test_the_tables_are_the_published_ones() -> None:
    full = {name: table.entries(SCALES["full"]) for name, table in TABLES.items()}
    assert [len(full[name]) for name in TABLES] == [24, 4, 6, 24, 6, 6]
    by_place = {(e.row, e.column): e.published for e in full["burda-table-1"]}
    assert by_place["2 layers, k = 50", "MNIST, IWAE"] == Figure(82.90, "26+7")
    assert by_place["1 layer, k = 5", "OMNIGLOT, VAE"] == Figure(107.62, "28")
    assert [e.published.nll for e in full["iwaer-table-1"]][:3] == [95.182, 94.346, 94.709]
    assert all(len(e.runs) == 5 for e in full["iwaer-table-1"])
    assert {e.runs[0].settings["epochs"] for e in full["burda-table-1"]} == {3280}
    assert not any("budget" in e.runs[0].settings for e in full["burda-table-1"])
    switched = full["burda-table-2"][1].runs[0]
    assert (switched.after.name, switched.settings["epochs"]) == ("mnist-iwae-1-k1", 3280 + 2187)
    assert TABLES["burda-table-2"].entries(SCALES["small"])[1].runs[0].settings["stages"] == 3


def test_a_small_scale_has_one_exact_run_more() -> None:
    runs = {
        entry.row: entry.runs[0] for entry in TABLES["burda-table-1"].entries(SCALES["small"]) if "IWAE" in entry.column
    }
    assert "budget" not in runs["1 layer, k = 50, all samples backward"].settings
    assert runs["2 layers, k = 50"].settings["budget"] == 8
    assert runs["2 layers, k = 50"].settings["epochs"] == passes(3) == 13
    assert run_of(("mnist", VAE, 1, 1), TINY, "paper").name == run_of(("mnist", IWAE, 1, 1), TINY, "paper").name


def test_settings_as_flags() -> None:
    assert flags({"dataset": "mnist", "batch_size": 20, "latent": (100, 50)}) == [
        "--dataset", "mnist", "--batch-size", "20", "--latent", "100,50"
    ]  # fmt: skip
    assert flags({"dataset": "/my/data.npz", "hidden": ((200, 200), (100,)), "capture": False, "budget": None}) == [
        "--data", "/my/data.npz", "--hidden", "200,200/100", "--no-capture"
    ]  # fmt: skip


# --- Running, in this process --------------------------------------------------------------------------------------


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[list[str]]:
    """Run the runner's commands in this process, on few digits; return a list of their arguments."""
    monkeypatch.chdir(tmp_path)
    return run_here(monkeypatch)


def small(name: str, after: RunOfTable | None = None, **settings: object) -> RunOfTable:
    base = {} if after else {"dataset": "digits", "hidden": (6,), "latent": (2,), "k": 2, "epochs": 1}
    return RunOfTable(name, {**base, **settings}, after)


def finish(folder: Path, *runs: RunOfTable, k: int = 3, **options: object) -> tuple[list[str], list[RunError]]:
    """Return the names of the runs that ended, and the errors of those that failed."""
    works, ended = [TableWork(run, folder, TINY, k) for run in with_ancestors(runs)], []
    failures = Runner(folder, **options).run_all(when_ready(works, ended), lambda work: ended.append(work.name))
    return ended, failures


def test_runs_are_done_once_and_go_on_from_each_other(here: list, tmp_path: Path) -> None:
    first = small("first", bound="elbo")
    second = small("second", first, bound="iwae", epochs=2)
    folder = tmp_path / "runs"
    assert finish(folder, second, jobs=2) == (["first", "second"], [])
    assert [arguments[0] for arguments in here] == ["train", "evaluate"] * 2
    assert TableWork(first, folder, TINY, 3).is_done()
    assert TableWork(second, folder, TINY, 3).is_done()
    here.clear()
    assert finish(folder, second, first) == (["first", "second"], [])
    assert here == []
    assert not TableWork(first, folder, TINY, 4).is_done()  # evaluated by other samples
    seen = outcome(Entry("row", "column", "digits", (first, second), Figure(20.0)), folder)
    assert seen.trials == 2
    assert seen.difference == pytest.approx(seen.nll - 20.0)
    assert seen.std_error > 0
    _, (error,) = finish(folder, small("first", bound="elbo", k=5, epochs=3))
    assert re.search(r"first failed: .* holds another run \(epochs, k differ\)", str(error))


def test_what_fails_does_not_stop_the_others(here: list, tmp_path: Path) -> None:
    bad, good = small("bad", learning_rate=-1.0), small("good")
    ended, failures = finish(tmp_path / "runs", bad, small("later", bad, epochs=2), good)
    assert [str(failure) for failure in failures] == ["bad failed"]
    assert ended == ["good"]


def test_what_is_stopped_is_left_for_the_next_time(here: list, tmp_path: Path) -> None:
    run = small("run")
    assert finish(tmp_path / "runs", run, stop=lambda: True) == ([], [])
    assert here == []
    (tmp_path / "runs" / "run").mkdir(parents=True)  # killed before its first checkpoint
    (tmp_path / "runs" / "run" / "config.json").write_text("{")
    (tmp_path / "runs" / "run" / ".checkpoint.safetensors.tmp").write_text("half")
    assert finish(tmp_path / "runs", run) == (["run"], [])
    (kept,) = (tmp_path / "runs" / "run" / "evaluations").glob("*.json")
    kept.write_text("{")
    _, (failure,) = finish(tmp_path / "runs", run)
    assert "run failed" in str(failure)
    assert "is not JSON" in str(failure)


def test_a_kill_before_the_last_checkpoint_is_not_the_end(here: list, tmp_path: Path) -> None:
    run, folder = small("run", epochs=2), tmp_path / "runs" / "run"
    assert finish(tmp_path / "runs", small("run")) == (["run"], [])
    shutil.rmtree(folder / "evaluations")
    (folder / "evaluation.json").unlink()
    rows = (folder / "metrics.csv").read_text()
    (folder / "metrics.csv").write_text(rows + "2,2,-20.0,1.0,0.5,1.0,1.0,\r\n")
    (folder / "config.json").write_text((folder / "config.json").read_text().replace('"epochs": 1', '"epochs": 2'))
    here.clear()
    assert finish(tmp_path / "runs", run) == (["run"], [])
    assert [arguments[:2] for arguments in here] == [["train", "--resume"], ["evaluate", str(folder)]]


def test_the_command(monkeypatch: pytest.MonkeyPatch, here: list, tmp_path: Path, capsys) -> None:
    monkeypatch.setattr("iwae_fast.experiments.reproduce.scales.SCALES", {"tiny": TINY, "small": TINY})

    def run(*arguments: str) -> int | None:
        with pytest.raises(SystemExit) as ended:
            main(["reproduce", *arguments])
        return ended.value.code

    assert run("digits", "--scale", "tiny", "-o", "out") == 0
    found = json.loads((tmp_path / "out" / "tiny" / "digits.json").read_text())
    assert [entry["runs"] for entry in found["entries"]] == [["digits-iwae-1-k1"]] * 2
    assert all(10 < entry["nll"] < 60 and entry["published"] is None for entry in found["entries"])
    page = (tmp_path / "out" / "tiny" / "digits.html").read_text()
    assert "Our figures and the published ones" in page
    assert not re.search(r'(src|href)="(?!data:)', page)
    calls = len(here)
    assert run("digits", "--scale", "tiny", "-o", "out") == 0
    assert len(here) == calls
    for arguments, message in (
        (("burda-table-9",), "unknown table 'burda-table-9'"),
        (("digits", "--scale", "huge"), "unknown scale 'huge'"),
        (("digits", "--only", "k7"), "no run matches 'k7': the runs are digits-iwae-1-k1"),
        (("digits", "--only", "("), "--only must be a regular expression"),
        (("digits", "--part", "3/2"), "--part must be I/N with I from 1 to N, such as 1/4, got '3/2'"),
        (("digits", "--launcher", "no-such-queue"), "--launcher must begin with a program of this machine"),
        (("digits", "--jobs", "0"), "jobs must be at least 1"),
        (("digits", "--jobs", "2", "--device", "cuda:1"), "device must be cpu or cuda"),
        (("digits", "--stages", "9"), "stages must be at most 8"),
    ):
        capsys.readouterr()
        assert run(*arguments) == 2
        assert message in capsys.readouterr().err
