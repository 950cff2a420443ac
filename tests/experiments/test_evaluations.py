"""Tests of a run's evaluations: several kept side by side, on the right data, and unchanged by rejected arguments."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

import iwae_fast as iw
from iwae_fast.experiments.cli import main
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.evaluate.evaluations import all_evaluations, best_evaluation
from iwae_fast.experiments.evaluate.per_observation import PerObservation
from iwae_fast.experiments.train.checkpoint import load_checkpoint
from iwae_fast.experiments.train.position import Position
from iwae_fast.experiments.train.runs import Run, sole_evaluator, sole_trainer
from iwae_fast.experiments.train.segments import Segment, extended

pytestmark = pytest.mark.xdist_group("evaluations")

RANDOM = np.random.default_rng(5)
BYTES = RANDOM.integers(0, 256, (60, 3, 4), np.uint8)
SMALL = ("--hidden", 6, "--latent", 2, "--batch-size", 10, "--k", 2)


@pytest.fixture(autouse=True, scope="module")
def empty_pictures():
    """Replace pictures by empty files: drawing takes most of the time, and is tested elsewhere."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("iwae_fast.experiments.pictures.plots._png", lambda *_: b"", raising=False)
        yield


@pytest.fixture
def here(monkeypatch, tmp_path, capsys):
    """Return a function that runs the command line in an empty folder and returns exit code, output and error."""
    monkeypatch.chdir(tmp_path)

    def run_here(*arguments):
        with pytest.raises(SystemExit) as ended:
            main([str(argument) for argument in arguments])
        return ended.value.code, *capsys.readouterr()

    return run_here


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Return a run of three epochs on a file, evaluated with 5 samples."""
    folder = tmp_path_factory.mktemp("runs")
    np.save(folder / "x.npy", BYTES)
    arguments = ("--data", folder / "x.npy", *SMALL, "--epochs", 3, "--eval-k", 5, "-o", folder / "run")
    with pytest.raises(SystemExit, match="0"):
        main(["train", *map(str, arguments)])
    return folder


@pytest.fixture
def run(trained, tmp_path):
    """Return a copy of that run, with its data beside it."""
    shutil.copytree(trained / "run", tmp_path / "run")
    return Run(tmp_path / "run")


def content(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def read(path: Path) -> dict:
    return json.loads(path.read_text())


# --- nothing lost -----------------------------------------------------------------------------------------------


def test_evaluations_are_kept_side_by_side(run, here):
    first = read(run.evaluation)
    assert here("evaluate", run.folder, "--k", 7, "--observations", 4)[0] == 0
    assert read(run.evaluation) == first  # of all six, though by fewer samples
    assert np.array_equal(
        PerObservation.load(run.per_observation).nll, PerObservation.load(all_evaluations(run)[0].per_observation).nll
    )
    assert here("evaluate", run.folder, "--k", 5, "--train-observations", 0)[0] == 0
    assert read(run.evaluation)["train_nll"] == first["train_nll"]
    code, output, _ = here("evaluate", run.folder, "--k", 9)
    assert code == 0
    assert "evaluating step 18, the end of epoch 3 of 3\n" in output
    best, *others = all_evaluations(run)
    assert read(run.evaluation) == best.content
    kinds = [
        (found.content["k"], found.content["observations"], found.content["train_observations"]) for found in others
    ]
    assert kinds == [(5, 6, 54), (5, 6, 0), (7, 4, 54)]
    page = run.report.read_text()
    assert "3 other evaluations" in page
    for found in (best, *others):
        assert f"{found.content['nll']:.3f}" in page
        kept = PerObservation.load(found.per_observation)
        assert kept.nll.mean() == pytest.approx(found.content["nll"])
        assert found.images == found.content["images"] == kept.images


def test_an_evaluation_of_an_earlier_version_is_kept(run, here):
    shutil.rmtree(run.evaluations)
    earlier = {name: value for name, value in read(run.evaluation).items() if name not in ("own", "images", "epochs")}
    run.evaluation.write_text(json.dumps(earlier))
    assert [found.content for found in all_evaluations(run)] == [earlier]
    assert here("evaluate", run.folder, "--k", 3)[0] == 0
    assert [found.content["k"] for found in all_evaluations(run)] == [5, 3]
    assert read(run.evaluation) == earlier


def test_an_evaluation_while_training_says_of_which_step(run, here):
    """Evaluate while another process holds the lock, with a checkpoint from before it started."""
    with sole_trainer(run.folder):
        code, output, error = here("evaluate", run.folder, "--k", 3)
    assert (code, error) == (0, "")
    assert "evaluating step 18, the end of epoch 3 of 3\n" in output
    words = [Position(step, 6, 4).describe() for step in (0, 7, 12, 24)]
    assert words == [
        "step 0, before epoch 1 of 4: an untrained model",
        "step 7, in epoch 2 of 4: training is not complete",
        "step 12, the end of epoch 2 of 4: training is not complete",
        "step 24, the end of epoch 4 of 4",
    ]


def test_a_refusal_changes_nothing(run, here, trained, tmp_path):
    np.save(tmp_path / "other.npy", BYTES[1:])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    before = content(tmp_path)
    resume = ("train", "--resume", run.folder, "--epochs", 7, "--k", 7)
    leftovers = [
        ".metrics.csv.0a1b2c3d.tmp",
        ".evaluation-step1-k2-n3.partial.npz.0a1b2c3d.tmp",
        "evaluations/.a.json.0.tmp",
    ]
    for name in leftovers:  # of a crash
        (run.folder / name).write_text("half")
    with sole_trainer(run.folder), sole_evaluator(run.folder):
        assert not any((run.folder / name).exists() for name in leftovers)
    with sole_trainer(run.folder):
        code, _, error = here(*resume)
    assert (code, content(tmp_path)) == (2, before)
    assert f"another process is training in {run.folder}" in error
    with sole_evaluator(run.folder):
        code, _, error = here("evaluate", run.folder, "--k", 9)
        assert f"another process is evaluating {run.folder}" in error
        code, _, error = here("evaluate", run.folder, "--k", 9, "--data", "other.npy")
        assert f"another process is evaluating {run.folder}" in error
    assert content(tmp_path) == before
    for arguments, message in (
        ((*resume, "--data", "other.npy"), "was written with training data that differ from"),
        ((*resume, "--bound", "jvi", "--order", 9), "order must be 1 or 2, got 9"),
        (
            ("train", "--start-from", run.folder, "--data", "other.npy", "-o", "new"),
            "was written with training data that differ from",
        ),
        (("train", *SMALL, "--data", "other.npy", "-o", "mine"), "is not empty"),
        (("train", "--start-from", run.folder, "-o", "mine"), "is not empty"),
        (("train", "--resume", "mine"), "mine is not the folder of a run"),
    ):
        code, _, error = here(*arguments)
        assert code == 2
        assert message in error
        assert content(tmp_path) == before
    assert not (tmp_path / "new").exists()
    assert not list((tmp_path / "mine").glob(".*"))


# --- data -------------------------------------------------------------------------------------------------------


def test_data_that_have_grown_are_not_evaluated(trained, run, here, tmp_path):
    """Refuse a file that has grown: three rows of its new test set were training rows."""
    np.save(tmp_path / "x.npy", np.concatenate([BYTES, BYTES[:10]]))
    run.config.write_text(json.dumps({**read(run.config), "dataset": str(tmp_path / "x.npy")}))
    before = content(run.folder)
    for command in (("evaluate", run.folder, "--k", 3), ("train", "--resume", run.folder, "--epochs", 9)):
        code, _, error = here(*command)
        assert code == 2
        assert "was written with training data that differ from" in error
        assert "--data" in error
    with pytest.raises(RuntimeError, match="was written with training data that differ from"):
        iw.load_run(run.folder).load_data()
    assert content(run.folder) == before


def test_other_test_data_are_not_the_runs_own(here, tmp_path):
    path = tmp_path / "split.npz"
    np.savez(path, train=BYTES[:50], test=BYTES[50:])
    assert here("train", "--data", path, *SMALL, "--epochs", 1, "--eval-k", 0, "-o", "run")[0] == 0
    np.savez(path, train=BYTES[:50], test=BYTES[40:])
    code, _, error = here("evaluate", "run", "--k", 3)
    assert code == 2
    assert "was written with test data that differ from" in error


def test_data_that_moved(run, here, trained, tmp_path):
    earlier = read(run.evaluation)
    gone = tmp_path / "gone.npy"
    run.config.write_text(json.dumps({**read(run.config), "dataset": str(gone)}))
    shutil.copy(trained / "x.npy", tmp_path / "moved.npy")
    for command in (("evaluate", run.folder), ("train", "--resume", run.folder)):
        code, _, error = here(*command)
        assert code == 2
        assert f"{gone} does not exist: give the file with the run's data by --data" in error
    assert here("sample", run.folder, "-o", "s.png")[0] == 0  # needs no data
    assert here("evaluate", run.folder, "--k", 5, "--data", "moved.npy")[0] == 0
    (again,) = all_evaluations(run)
    assert (again.content["nll"], again.is_own) == (earlier["nll"], True)
    code, _, error = here("train", "--resume", run.folder, "--data", "moved.npy", "--epochs", 4, "--eval-k", 0)
    assert code == 0, error
    assert read(run.config)["dataset"] == str(tmp_path / "moved.npy")
    assert here("evaluate", run.folder, "--k", 5)[0] == 0
    assert [found.content["step"] for found in all_evaluations(run)] == [24, 18]


def test_other_rows_are_scored_one_by_one(run, here, tmp_path):
    """Store evaluations of other rows separately from the evaluations of the run."""
    before = {name: each for name, each in content(run.folder).items() if "evaluations" not in name}
    ones = (BYTES > 127).astype(np.uint8)
    np.save(tmp_path / "all.npy", ones)
    np.savez(tmp_path / "split.npz", train=ones[:10], test=ones[10:])
    code, output, error = here("evaluate", run.folder, "--k", 4, "--data", "all.npy")
    assert code == 0, error
    rows = PerObservation.load(Path(output.splitlines()[-1].removeprefix("results per row in ")))
    loaded = iw.load_run(run.folder)
    x = torch.from_numpy(ones.reshape(60, 12)).float()
    expected = -iw.evaluate.log_likelihood(loaded.model, x, 4, seed=all_evaluations(run)[-1].content["seed"]).value
    np.testing.assert_allclose(rows.nll, expected.numpy(), rtol=1e-6)
    assert rows.rows.tolist() == list(range(60))
    assert "60 of 60 observations" in output
    _, output, _ = here("evaluate", run.folder, "--k", 4, "--data", "split.npz", "--observations", 7)
    some = PerObservation.load(Path(output.splitlines()[-1].removeprefix("results per row in ")))
    assert len(some.rows) == 7
    assert (np.diff(some.rows) > 0).all()
    assert some.rows.max() < 50
    assert {name: each for name, each in content(run.folder).items() if "evaluations" not in name} == before
    assert [found.is_own for found in all_evaluations(run)].count(False) == 2
    assert best_evaluation(all_evaluations(run)).content == read(run.evaluation)
    assert here("evaluate", run.folder, "--k", 3)[0] == 0
    assert "all.npy (not the run&#39;s)" in run.report.read_text()
    np.save(tmp_path / "wide.npy", np.zeros((4, 9)))
    code, _, error = here("evaluate", run.folder, "--data", "wide.npy")
    assert code == 2
    assert "wide.npy has observations of 9 numbers, expected the run's 12" in error


# --- segments ---------------------------------------------------------------------------------------------------


def test_another_objective_is_another_segment(run, here):
    assert "The objective changed" not in run.report.read_text()
    code, _, error = here("train", "--resume", run.folder, "--epochs", 4, "--eval-k", 0)
    assert code == 0, error
    assert [segment.step for segment in load_checkpoint(run.checkpoint).segments] == [0]
    change = ("--k", 7, "--bound", "vr-iwae", "--alpha", 0.3, "--budget", 2)
    code, _, error = here("train", "--resume", run.folder, "--epochs", 6, *change, "--eval-k", 5)
    assert code == 0, error
    segments = load_checkpoint(run.checkpoint).segments
    assert [(segment.step, segment.describe()) for segment in segments] == [
        (0, "iwae, k = 2"),
        (24, "vr-iwae (alpha 0.3), k = 7, budget 2"),
    ]
    page = run.report.read_text()
    for shown in ("The objective changed", "0 to 4", "iwae, k = 2", "4 to 6", "vr-iwae (alpha 0.3), k = 7, budget 2"):
        assert shown in page
    code, output, _ = here("compare", run.folder, run.folder)
    assert code == 0
    assert "1 was trained with iwae, k = 2; then vr-iwae (alpha 0.3), k = 7, budget 2" in " ".join(output.split())
    assert iw.load_run(run.folder).config.k == 7


def test_segments_in_which_no_step_was_taken_are_none():
    two, seven = (TrainConfig.preset("digits", k=k) for k in (2, 7))
    start = (Segment.begin(0, two),)
    assert extended(start, 0, seven) == (Segment.begin(0, seven),)
    assert extended(start, 5, two) == start
    both = extended(start, 5, seven)
    assert both == (*start, Segment.begin(5, seven))
    assert extended(both, 5, two) == start
    assert extended(both, 9, two) == (*both, Segment.begin(9, two))


def test_a_segment_from_before_a_setting_existed_continues():
    config = TrainConfig.preset("digits", bound="iwae")
    earlier = {name: value for name, value in Segment.begin(0, config).settings.items() if name != "beta"}
    start = (Segment(0, earlier),)
    assert extended(start, 5, config) == start
    assert len(extended(start, 5, TrainConfig.preset("digits", bound="ciwae"))) == 2


# --- in Python --------------------------------------------------------------------------------------------------


def test_load_run(run, trained, tmp_path):
    loaded = iw.load_run(str(run.folder), device="cpu")
    assert (loaded.step, loaded.image_shape, loaded.config.k) == (18, (3, 4), 2)
    assert not loaded.model.training
    saved = load_checkpoint(run.checkpoint).model
    assert all((value == saved[name]).all() for name, value in loaded.model.state_dict().items())
    loaded.model.save_pretrained(tmp_path / "pretrained")
    other = iw.models.LatentVariableModel.from_pretrained(tmp_path / "pretrained")
    assert all((value == saved[name]).all() for name, value in other.state_dict().items())
    data = loaded.load_data()
    assert data.train[:5].shape == (5, 12)
    shutil.copy(trained / "x.npy", tmp_path / "moved.npy")
    assert loaded.load_data(tmp_path / "moved.npy").train_fingerprint == data.train_fingerprint
    with pytest.raises(FileNotFoundError, match="is not the folder of a run"):
        iw.load_run(tmp_path)
