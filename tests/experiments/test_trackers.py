"""Tests of experiment trackers: what is logged where, how a run goes on, and that failures do not stop training."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

pytest.importorskip("typer")
pytest.importorskip("sklearn")

from iwae_fast.experiments.cli import closing, main, training_run
from iwae_fast.experiments.trackers import channel, table
from iwae_fast.experiments.trackers.base import Tracker
from iwae_fast.experiments.train.metrics import read_metrics
from iwae_fast.experiments.train.turns import Pause, Turns

pytestmark = pytest.mark.xdist_group("command line")

SMALL = ("--hidden", 8, "--latent", 2, "--k", 3, "--batch-size", 400, "--seed", 3, "--validation", 40)
EVALUATED = ("--eval-k", 4, "--eval-observations", 10)
Here = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> Here:
    """Return a function that runs the command line in this process and returns exit code, output and error."""
    monkeypatch.chdir(tmp_path)

    def run_here(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return ended.value.code, *capsys.readouterr()

    return run_here


class Fake(Tracker):
    """A tracker that keeps what is logged, and can be made to fail."""

    name, library = "fake", "json"
    runs: list[Fake]
    breaks: str = ""
    """Name of the method that raises an exception."""

    def begin(self, folder: Path, settings: Mapping[str, object], identity: str | None, step: int) -> str:
        self.called: list[str] = []
        self.folder, self.settings, self.identity, self.step = folder, dict(settings), identity, step
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.pictures: list[tuple[int, str]] = []
        self.outcome = ""
        self.runs.append(self)
        self._break("begin")
        return identity or f"run {len(self.runs)}"

    def where(self) -> str:
        return "nowhere"

    def numbers(self, step: int, values: Mapping[str, float]) -> None:
        self._break("numbers")
        self.logged.append((step, dict(values)))

    def picture(self, step: int, path: Path) -> None:
        assert path.is_file()
        self.pictures.append((step, path.name))

    def end(self, outcome: str) -> None:
        self._break("end")
        self.outcome = outcome

    def _break(self, name: str) -> None:
        self.called.append(name)
        if name == self.breaks == "end":
            time.sleep(20)
        elif name == self.breaks:
            raise OSError(28, "No space left on device")


@pytest.fixture
def fakes(monkeypatch: pytest.MonkeyPatch) -> list[Fake]:
    """Offer the tracker "fake"; return its runs."""
    runs: list[Fake] = []
    monkeypatch.setattr(Fake, "runs", runs, raising=False)
    monkeypatch.setitem(table.TRACKERS, "fake", Fake)
    return runs


@pytest.fixture
def unevaluated(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what follows training, which takes time."""
    monkeypatch.setattr(training_run, "_close", lambda *_: None)


@pytest.fixture
def unreported(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the report, whose pictures take seconds."""
    monkeypatch.setattr(closing, "write_run_report", lambda *_: None)


@pytest.mark.usefixtures("unreported")
def test_what_is_logged(here: Here, fakes: list[Fake]) -> None:
    code, printed, error = here(
        "train", *SMALL, *EVALUATED, "--epochs", 2, "--keep-best", "--log", "fake", "-o", "run", "--lr-warmup", 100000
    )
    assert (code, fakes) == (2, []), error  # refused before anything is logged
    code, printed, error = here(
        "train", *SMALL, *EVALUATED, "--epochs", 2, "--keep-best", "--log", "fake", "-o", "run", "--lr-warmup", 8
    )
    assert (code, error) == (0, "")
    (run,) = fakes
    assert "logging to fake: nowhere\n" in printed
    assert run.settings.items() >= {"k": 3, "lr_warmup": 8, "bound": "iwae", "hidden": [[8]], "patience": None}.items()
    *epochs, (step, final) = run.logged
    for row, (at, values) in zip(read_metrics(Path("run/metrics.csv")), epochs, strict=True):
        assert at == row.step == 4 * row.epoch
        assert values == pytest.approx(
            {
                "epoch": row.epoch,
                "train/bound": row.bound,
                "train/ess": row.ess,
                "train/max_weight": row.max_weight,
                "train/seconds": row.seconds,
                "train/steps_per_second": row.steps_per_second,
                "train/learning_rate": 3e-3 * row.epoch / 2,
                "validation/bound": row.validation,
            }
        )
    evaluation = json.loads(Path("run/evaluation.json").read_text())
    assert (step, final["test/nll"], final["train/nll"]) == (8, evaluation["nll"], evaluation["train_nll"])
    assert final["test/active_units"] == sum(evaluation["active_units"])
    assert run.pictures == [(8, "loss-curve.png"), (8, "reconstructions.png"), (8, "samples.png")]
    assert run.outcome == "finished"


@pytest.mark.usefixtures("unevaluated")
def test_a_resumed_run_goes_on_in_its_trackers(here: Here, fakes: list[Fake], monkeypatch: pytest.MonkeyPatch) -> None:
    assert here("train", *SMALL, "--epochs", 1, "-o", "run")[0] == 0
    assert not Path("run/trackers.json").exists()
    # The epochs before are logged to a new tracker too.
    assert here("train", "--resume", "run", "--epochs", 2, "--log", "fake")[0] == 0
    assert [step for step, _ in fakes[0].logged] == [4, 8]
    assert json.loads(Path("run/trackers.json").read_text()) == {"fake": "run 1"}
    assert here("train", "--resume", "run", "--epochs", 3)[0] == 0
    assert (fakes[1].identity, fakes[1].step, [step for step, _ in fakes[1].logged]) == ("run 1", 8, [12])
    assert fakes[1].settings["epochs"] == 3
    # A copy of the run is another run in the tracker.
    assert here("train", "--start-from", "run", "--epochs", 4, "-o", "other", "--log", "fake")[0] == 0
    assert (fakes[2].identity, [step for step, _ in fakes[2].logged]) == (None, [4, 8, 12, 16])
    monkeypatch.setattr(Fake, "library", "missing")
    code, _, error = here("train", "--resume", "run", "--epochs", 4)
    assert code == 2
    assert "--log fake needs missing, which is not installed" in error
    assert error.endswith("; or resume without it by --log none\n")
    assert here("train", "--resume", "run", "--epochs", 4, "--log", "none")[0] == 0
    assert here("train", "--resume", "run", "--epochs", 5)[0] == 0
    assert len(fakes) == 3


def test_the_outcome_of_a_run_that_ends_otherwise(
    here: Here, fakes: list[Fake], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopping(*_: object, reporter: object, stop: object, **__: object) -> Turns[None]:
        stop.set = True
        yield Pause.STEP

    assert here("train", *SMALL, "--learning-rate", 1e30, "--epochs", 9, "--log", "fake", "-o", "diverged")[0] == 2
    monkeypatch.setattr(training_run.training, "train_in_turns", stopping)
    assert here("train", *SMALL, "--epochs", 1, "--log", "fake", "-o", "stopped")[0] == 130
    assert [run.outcome for run in fakes] == ["failed", "interrupted"]


@pytest.mark.usefixtures("unevaluated")
@pytest.mark.parametrize("breaks", ["begin", "numbers", "end"])
def test_a_tracker_that_fails_says_so_once_and_does_not_stop_training(
    here: Here, fakes: list[Fake], monkeypatch: pytest.MonkeyPatch, breaks: str
) -> None:
    monkeypatch.setattr(Fake, "breaks", breaks)
    monkeypatch.setattr(channel.Channel.close, "__defaults__", (0.3,))
    code, printed, error = here("train", *SMALL, "--epochs", 3, "--log", "fake", "-o", "run")
    assert (code, error) == (0, "")
    why = "it did not end within 0.3 seconds" if breaks == "end" else "no space left on device"
    assert printed.count(f"warning: fake failed and logs no more of this run, which goes on: {why}\n") == 1
    assert printed.count("warning") == 1
    assert len(read_metrics(Path("run/metrics.csv"))) == 3
    assert fakes[0].called.count(breaks) == 1


@pytest.mark.parametrize("name", ["tensorboard", "wandb", "mlflow"])
def test_a_missing_library_is_an_error_that_names_the_extra(
    here: Here, monkeypatch: pytest.MonkeyPatch, name: str, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    code, _, error = here("train", *SMALL, "--log", name, "-o", "run")
    wanted = f"pip install 'iwae_fast[cli,{name}]'"
    assert (code, error) == (2, f"iwae-fast: error: --log {name} needs {name}, which is not installed: {wanted}\n")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            ("tensorbord",),
            "unknown tracker 'tensorbord': did you mean 'tensorboard'? choose one of tensorboard,",
        ),
        (("none,fake",), "--log none excludes other trackers, got none, fake"),
        (("fake", ""), "unknown tracker ''"),
    ],
)
def test_bad_names(here: Here, fakes: list[Fake], given: tuple[str, ...], message: str, tmp_path: Path) -> None:
    code, _, error = here("train", *(word for name in given for word in ("--log", name)))
    assert code == 2
    assert message in error
    assert not any(tmp_path.iterdir())


# --- the libraries themselves -----------------------------------------------------------------------------------


def train_and_resume(here: Here, name: str) -> None:
    code, printed, error = here("train", *SMALL, *EVALUATED, "--epochs", 2, "--log", name, "-o", "run")
    assert code == 0, error
    assert "warning" not in printed
    code, printed, error = here("train", "--resume", "run", "--epochs", 3, "--eval-k", 0)
    assert code == 0, error
    assert "warning" not in printed


@pytest.mark.usefixtures("unreported")
def test_tensorboard(here: Here) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train_and_resume(here, "tensorboard")
    found = EventAccumulator("run/tensorboard")
    found.Reload()
    rows = read_metrics(Path("run/metrics.csv"))
    for tag, name in (("train/bound", "bound"), ("validation/bound", "validation"), ("train/ess", "ess")):
        logged = [(event.step, event.value) for event in found.Scalars(tag)]
        assert logged == [(row.step, pytest.approx(getattr(row, name), rel=1e-6)) for row in rows]
    nll = json.loads(Path("run/evaluation.json").read_text())["nll"]
    assert [(event.step, event.value) for event in found.Scalars("test/nll")] == [(8, pytest.approx(nll, rel=1e-6))]
    assert found.Tags()["images"] == ["loss-curve", "reconstructions", "samples"]
    assert "_hparams_/session_start_info" in found.summary_metadata


def test_tensorboard_hides_what_a_run_logged_after_its_checkpoint(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="tensorboard is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for identity, step, values in ((None, 0, (1.0, 2.0, 3.0)), ("tensorboard", 4, (5.0,))):
        tracker = table.TRACKERS["tensorboard"]()
        tracker.begin(tmp_path, {"k": 3}, identity, step)
        for number, value in enumerate(values, 1):
            tracker.numbers(step + 4 * number, {"train/bound": value})
        tracker.end("finished")
    found = EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    assert [(event.step, event.value) for event in found.Scalars("train/bound")] == [(4, 1.0), (8, 5.0)]


def wandb_records(content: bytes) -> Iterator[bytes]:
    """Read the records of a file of Weights & Biases, which is a log of LevelDB after its own header of 7 bytes."""
    block, header, whole, last = 32768, 7, 1, 4
    position, parts = header, []
    while position + header <= len(content):
        if block - position % block < header:  # the rest of a block without room for a header is empty
            position += block - position % block
            continue
        length, kind = int.from_bytes(content[position + 4 : position + 6], "little"), content[position + 6]
        parts.append(content[position + header : position + header + length])
        position += header + length
        if kind in (whole, last):
            yield b"".join(parts)
            parts = []


@pytest.mark.usefixtures("unreported")
def test_wandb(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb", reason="wandb is not installed")
    from wandb.proto import wandb_internal_pb2

    for name, value in (("WANDB_MODE", "offline"), ("WANDB_ERROR_REPORTING", "false"), ("WANDB_SILENT", "true")):
        monkeypatch.setenv(name, value)
    train_and_resume(here, "wandb")
    identity = json.loads(Path("run/trackers.json").read_text())["wandb"]
    files = sorted(Path("run/wandb").glob(f"offline-run-*/run-{identity}.wandb"))
    assert len(files) == 2
    rows, codes = [], []
    for content in (content for file in files for content in wandb_records(file.read_bytes())):
        record = wandb_internal_pb2.Record.FromString(content)
        if record.HasField("history"):
            rows.append({item.key or item.nested_key[0]: item.value_json for item in record.history.item})
        if record.HasField("exit"):
            codes.append(record.exit.exit_code)
    epochs = [(int(row["step"]), float(row["train/bound"])) for row in rows if "train/bound" in row]
    assert epochs == [(row.step, pytest.approx(row.bound)) for row in read_metrics(Path("run/metrics.csv"))]
    assert [row["step"] for row in rows if "test/nll" in row] == ["8"]
    assert [row["step"] for row in rows if "samples" in "".join(row)] == ["8", "12"]
    assert codes == [0, 0]


@pytest.mark.usefixtures("unreported")
def test_mlflow(here: Here, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    pytest.importorskip("mlflow", reason="mlflow is not installed")
    from mlflow import MlflowClient

    address = (tmp_path / "mlruns").as_uri()
    settings = {"MLFLOW_TRACKING_URI": address, "MLFLOW_ALLOW_FILE_STORE": "true", "MLFLOW_DISABLE_TELEMETRY": "true"}
    for name, value in {**settings, "MLFLOW_HTTP_REQUEST_TIMEOUT": "1"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    train_and_resume(here, "mlflow")
    client = MlflowClient(address)
    (run,) = client.search_runs([client.get_experiment_by_name("iwae-fast").experiment_id])
    assert run.info.run_id == json.loads(Path("run/trackers.json").read_text())["mlflow"]
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert (run.data.params["epochs"], run.data.tags["epochs from step 8"], run.data.params["k"]) == ("2", "3", "3")
    logged = sorted((metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "train/bound"))
    assert logged == [(row.step, pytest.approx(row.bound)) for row in read_metrics(Path("run/metrics.csv"))]
    assert run.data.metrics["test/nll"] == pytest.approx(json.loads(Path("run/evaluation.json").read_text())["nll"])
    pictures = {file.path for file in client.list_artifacts(run.info.run_id)}
    assert pictures == {"loss-curve.png", "reconstructions.png", "samples.png"}
    assert os.environ["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "1"
