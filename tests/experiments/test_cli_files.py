"""Tests of ``iwae-fast train`` and ``evaluate`` on the files that users have."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import user_files as made
from user_files import NEEDED, need

pytest.importorskip("typer")
pytest.importorskip("sklearn")

import iwae_fast as iw
from iwae_fast import data
from iwae_fast.experiments.cli import main
from iwae_fast.experiments.config import TrainConfig, advice
from iwae_fast.experiments.pictures import plots
from iwae_fast.experiments.pictures.themes import LIGHT
from iwae_fast.experiments.train.fixed_pixels import fixed_test_images, labels_of_test
from iwae_fast.experiments.train.pixels import as_pixels, batches_as_pixels
from iwae_fast.seeds import Purpose

pytestmark = pytest.mark.xdist_group("command line")

Here = Callable[..., tuple[int, str, str]]
SMALL = ("--epochs", 1, "--hidden", 4, "--latent", 2, "--k", 2, "--eval-k", 4, "--batch-size", 8)


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> Here:
    """Return a function that runs the command line in this process, without drawing, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plots, "_png", lambda *_: b"")

    def run_here(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main([*map(str, arguments)])
        return ended.value.code, *capsys.readouterr()

    return run_here


def error_of(result: tuple[int, str, str]) -> str:
    """Return the line of an error; check that there is nothing else."""
    code, _, error = result
    assert code == 2
    assert error.startswith("iwae-fast: error: ")
    assert error.count("\n") == 1
    return error


KINDS: dict[str, tuple[Callable[[Path], Path], tuple[str, ...]]] = {
    **{kind: (write, ("--likelihood", "gaussian")) for kind, write in made.SINGLE.items() if kind != "h5ad"},
    "labeled csv": (
        lambda folder: made.csv(folder / "l.csv", species=made.WORDS, fold=made.FOLD),
        ("--likelihood", "gaussian", "--labels", "species", "--split", "fold"),
    ),
    "sparse npz": (lambda folder: made.sparse_npz(folder / "s.npz"), ("--likelihood", "negative-binomial")),
    "h5ad": (
        lambda folder: made.anndata(folder / "a.h5ad"),
        ("--likelihood", "negative-binomial", "--labels", "cell_type", "--split", "0.25"),
    ),
    "color images": (lambda folder: made.images(folder / "images", (4, 3, 3)), ("--split", 0.25)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_each_kind_of_file_is_trained_on_and_evaluated(kind: str, here: Here, tmp_path: Path) -> None:
    need(
        *NEEDED.get(kind.split()[-1], ["scipy"] if kind == "sparse npz" else ["PIL"] if kind == "color images" else [])
    )
    write, options = KINDS[kind]
    path = write(tmp_path)
    code, printed, error = here("train", "--data", path.name, *options, *SMALL, "-o", "run")
    assert code == 0, error
    assert re.search(r"test NLL -?[\d.]+ ± [\d.]+ nats \(standard error; k = 4", printed)
    # The same file is the run's own data, also where it has moved; a copy with other numbers is not.
    moved = path.rename(tmp_path / f"moved{path.suffix}")
    assert "give the file with the run's data by --data" in error_of(here("evaluate", "run", "--k", 4))
    code, printed, error = here("evaluate", "run", moved.name, "--k", 4)
    assert code == 0, error
    assert "evaluating step" in printed
    code, printed, error = here("train", "--resume", "run", "--data", moved.name, "--epochs", 2, "--eval-k", 0)
    assert code == 0, error
    assert json.loads(Path("run/config.json").read_text())["dataset"] == str(moved)


def test_other_files_are_evaluated_whatever_their_format(here: Here, tmp_path: Path) -> None:
    need("pandas", "h5py")
    made.csv(tmp_path / "train.csv", species=made.WORDS)
    code, _, error = here(
        "train", "--data", "train.csv", "--labels", "species", "--likelihood", "gaussian", *SMALL, "-o", "run"
    )
    assert code == 0, error
    np.savez("new.npz", spectra=made.X[:7] + 1, other=made.X, y=made.CLASSES[:7])
    made.hdf5(tmp_path / "new.h5", group__spectra=made.X[:7] + 1)
    nll = []
    for arguments in (("new.npz", "--array", "spectra"), ("--data", "new.h5")):
        code, printed, error = here("evaluate", "run", *arguments, "--k", 4)
        assert code == 0, error
        (found,) = re.findall(r"NLL (\S+) ± \S+ nats .* 7 of 7 observations of new\.\w+, all 7 observations", printed)
        nll.append(found)
    assert nll[0] == nll[1]
    assert "choose one by --array NAME" in error_of(here("evaluate", "run", "new.npz"))
    assert "FILE and --data are the same" in error_of(here("evaluate", "run", "new.h5", "--data", "new.npz"))
    assert "array can only be given for other data" in error_of(here("evaluate", "run", "--array", "x"))
    np.save("wide.npy", made.X[:, :3])
    assert "has observations of 3 numbers, expected the run's 5" in error_of(here("evaluate", "run", "wide.npy"))
    # The standard error of one observation is not known, and is not named then.
    np.save("one.npy", made.X[:1])
    code, printed, _ = here("evaluate", "run", "one.npy", "--k", 4)
    assert re.search(r"^NLL \S+ nats \(step 3, k = 4, 1 of 1 observations", printed), printed


def test_the_test_set_of_another_file(here: Here, tmp_path: Path) -> None:
    need("pandas")
    made.csv(tmp_path / "a.csv", species=made.WORDS)
    made.frame(made.X[:6] * 2, species=made.WORDS[:6]).to_csv("b.csv", index=False)
    files = ("--data", "a.csv", "--test", "b.csv", "--labels", "species")
    code, printed, error = here("train", *files, "--likelihood", "gaussian", *SMALL, "-o", "run")
    assert code == 0, error
    assert "6 of 6 test observations" in printed
    Path("new").mkdir()
    moved = [Path(name).rename(Path("new") / name) for name in ("a.csv", "b.csv")]
    again = ("--resume", "run", "--data", moved[0], "--test", moved[1], "--epochs", 2, "--eval-k", 0)
    code, _, error = here("train", *again)
    assert code == 0, error
    assert json.loads(Path("run/config.json").read_text())["test"] == str(tmp_path / "new/b.csv")
    made.frame(made.X, species=made.WORDS).rename(columns={"f0": "g0"}).to_csv("c.csv", index=False)
    told = error_of(here("train", "--data", moved[0], "--test", "c.csv", "--labels", "species"))
    assert re.search(r"c.csv must have the columns of \S+a.csv, which differ in f0, g0", told)
    told = error_of(here("train", "--data", moved[0], "--test", moved[1], "--split", 0.5, "--labels", "species"))
    assert re.search("split 0.5 has no effect beside the test file", told)


@pytest.mark.parametrize("values", ["real", "binary", "gray levels"])
def test_missing_values_are_not_observed(values: str, here: Here, tmp_path: Path) -> None:
    random = np.random.default_rng(2)
    x = {"real": made.X, "binary": np.sign(made.X).clip(0), "gray levels": random.random(made.X.shape)}[values].copy()
    x[random.random(x.shape) < 0.3] = np.nan
    x[4] = np.nan
    np.save("x.npy", x)
    likelihood = ("--likelihood", "gaussian" if values == "real" else "bernoulli")
    told = error_of(here("train", "--data", "x.npy", *likelihood))
    assert re.search(r"has NaN in an array, in row \d+ .from 0.: --missing nan", told)
    options = ("--missing", "nan", "--validation", 4, *likelihood, "--prior", "vamp")
    code, _, error = here("train", "--data", "x.npy", *options, *SMALL, "-o", "run")
    assert code == 0, error
    run = iw.load_run("run")
    images = run.load_data()
    assert images.missing
    test = fixed_test_images(images)
    assert test.isnan().any()
    evaluation = json.loads(Path("run/evaluation.json").read_text())
    found = iw.evaluate.log_likelihood(run.model, test.nan_to_num(7.0), 4, seed=evaluation["seed"], mask=~test.isnan())
    assert evaluation["nll"] == pytest.approx(-found.mean, rel=1e-6)
    # With another number for missing values, and with a text in a table, the run is the same.
    np.save("y.npy", np.nan_to_num(x, nan=-99.0))
    assert here("evaluate", "run", "y.npy", "--missing", -99, "--k", 4)[0] == 0
    assert data.load("y.npy", missing="-99").train_fingerprint == images.train_fingerprint


def test_texts_for_missing_values_in_tables(tmp_path: Path) -> None:
    need("pandas")
    (tmp_path / "t.csv").write_text("a,b\n1,?\n?,4\n,6\n")
    found = data.load(str(tmp_path / "t.csv"), missing="?", unsplit=True)
    np.testing.assert_array_equal(found.test.numpy(), [[1, np.nan], [np.nan, 4], [np.nan, 6]])
    assert torch.equal(data.Rows(found.test.numpy(), missing=np.nan).mean(0), torch.tensor([1.0, 5.0]))


def test_pixels_that_are_missing_stay_missing() -> None:
    levels = torch.rand(3, 8, 6).where(torch.rand(3, 8, 6) > 0.3, torch.nan)
    seed, steps = torch.tensor(5), torch.arange(3)
    drawn = batches_as_pixels(levels, seed, steps, missing=True)
    whole = batches_as_pixels(levels.nan_to_num(0.5), seed, steps)
    assert torch.equal(drawn.isnan(), levels.isnan())
    assert torch.equal(drawn[~levels.isnan()], whole[~levels.isnan()])
    assert torch.equal(as_pixels(levels[0], True, 1, Purpose.TEST_PIXELS).isnan(), levels[0].isnan())


@pytest.mark.parametrize("dtype", [np.float64, np.int32, np.float32])
def test_numbers_from_0_to_255_are_recognized(dtype: type, here: Here, tmp_path: Path) -> None:
    levels = np.random.default_rng(0).integers(0, 256, (24, 4, 3))
    np.save("x.npy", levels.astype(dtype))
    told = error_of(here("train", "--data", "x.npy"))
    assert "likelihood 'bernoulli' does not support the value" in told
    assert "whole, in 0 to 255: make gray levels of them by --divide-by 255" in told
    assert "--likelihood gaussian or negative-binomial" in told
    code, _, error = here("train", "--data", "x.npy", "--divide-by", 255, *SMALL, "-o", "run")
    assert code == 0, error
    np.save("bytes.npy", levels.astype(np.uint8))
    expected = data.load("bytes.npy")
    found = data.load("x.npy", divide_by=255)
    assert (found.grey_levels, found.train_fingerprint) == (True, expected.train_fingerprint)
    assert "they are counts" in advice(torch.tensor([[3.0, 700.0]]))
    assert "such as --likelihood gaussian" in advice(torch.tensor([[-1.0, 2.0]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--split", 1.5), "split must be a fraction between 0 and 1, or a column's name, got 1.5"),
        (("--divide-by", 0), "divide_by must be positive and finite, got 0.0"),
        (("--array", "y"), "has a single array|does not have an array 'y'"),
        (("--labels", "y"), "does not have an array 'y' of labels"),
        (("--test", "nowhere.npy"), r"nowhere.npy does not exist"),
    ],
)
def test_options_that_do_not_fit(arguments: tuple, message: str, here: Here, tmp_path: Path) -> None:
    np.save("x.npy", made.X)
    assert re.search(message, error_of(here("train", "--data", "x.npy", "--likelihood", "gaussian", *arguments)))
    option = arguments[0]
    told = error_of(here("train", "--dataset", "digits", *arguments))
    assert f"{option} is an option of files given by --data, and has no effect on data set 'digits'" in told
    assert not Path("runs").exists()


def test_a_loss_that_is_not_finite_is_of_the_epoch_that_was_trained(here: Here, tmp_path: Path) -> None:
    np.save("x.npy", np.full((24, 5), 3e19) * np.sign(made.X))
    code, _, error = here("train", "--data", "x.npy", "--likelihood", "gaussian-fixed", *SMALL, "--batch-size", 100)
    assert code == 2
    assert "the loss is not finite at step 1 (epoch 1)" in error


def test_a_missing_package_is_one_line(tmp_path: Path) -> None:
    need("pandas")
    made.csv(tmp_path / "t.csv")
    script = "import sys; sys.modules['pandas'] = None; from iwae_fast.experiments.cli import main; main(sys.argv[1:])"
    result = subprocess.run(
        [sys.executable, "-c", script, "train", "--data", "t.csv"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(iw.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 1
    assert re.fullmatch(
        r"iwae-fast: error: the table \S+t.csv needs pandas, .*pip install 'iwae_fast\[files\]'\n", result.stderr
    )


def test_labels_follow_the_order_of_the_test_set(tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=made.X, y=made.X[:, 0])
    images = TrainConfig.preset(str(tmp_path / "x.npz"), likelihood="gaussian", split=0.5).load_data()
    labels = labels_of_test(images, 9)
    np.testing.assert_array_equal(labels, fixed_test_images(images, 9)[:, 0].numpy())


def test_classes_and_color_images_are_drawn() -> None:
    points = np.random.default_rng(0).standard_normal((40, 2))
    colored = np.random.default_rng(0).random((40, 6, 5, 3))
    colored[0, 0, 0] = np.nan
    for classes in (
        made.WORDS.repeat(2)[:40],
        np.arange(40),
        np.arange(40) % 3,
        np.array([f"c{n}" for n in range(40)]),
    ):
        assert plots.plane(points, ("a", "b"), colored, LIGHT, classes).startswith(b"\x89PNG")
    assert plots.image_grid(colored.reshape(4, 10, 6, 5, 3), theme=LIGHT).startswith(b"\x89PNG")
    assert LIGHT.painted(colored[0])[0, 0, 3] == 0
    assert LIGHT.painted(colored[1]).shape == (6, 5, 4)
