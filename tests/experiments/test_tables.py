"""Tests of tables with columns of several kinds on the command line, and of the imputation of files."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("typer")

import iwae_fast as iw
from iwae_fast.experiments.cli import main
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.evaluate.bits import bits_per_dimension

SCHEMA = """[columns]
"x0" = "real"
"x1" = { kind = "categorical", classes = 3 }
"x2" = "count"
"x3" = "binary"
"""


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    generator = np.random.default_rng(0)
    x = np.stack(
        [
            generator.normal(size=80),
            generator.integers(0, 3, 80),
            generator.poisson(40.0, 80),
            generator.integers(0, 2, 80),
        ],
        1,
    )
    path = tmp_path_factory.mktemp("table") / "table.npy"
    np.save(path, x)
    return path


def run_main(arguments: list[str]) -> int:
    """Run a command and return its exit code."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return int(ended.value.code or 0)


SMALL = ("--hidden", "8", "--latent", "2", "--epochs", "1", "--k", "3", "--eval-k", "5")


@pytest.fixture(scope="module")
def run(table: Path) -> Path:
    """Return a run on the table, whose schema is a file."""
    schema, folder = table.parent / "schema.toml", table.parent / "run"
    schema.write_text(SCHEMA)
    options = ("--likelihood", "mixed", "--schema", str(schema), "--log-std-bounds=-4,2", "--output", str(folder))
    assert run_main(["train", "--data", str(table), *options, *SMALL]) == 0
    return folder


def test_a_table_without_a_schema_is_offered_one(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main(["train", "--data", str(table), "--likelihood", "mixed", *SMALL]) != 0
    guess = """--schema '[["x0", "real"], ["x1", "categorical", 3], ["x2", "count"], ["x3", "binary"]]'"""
    assert guess in capsys.readouterr().err


def test_a_run_keeps_its_schema_and_bounds(run: Path) -> None:
    loaded = iw.load_run(run)
    likelihood = loaded.model.likelihood
    assert [column.kind for column in likelihood.columns] == ["real", "categorical", "count", "binary"]
    assert likelihood.log_std_bounds == loaded.model.log_std_bounds == (-4.0, 2.0)
    assert TrainConfig.from_json(json.loads(json.dumps(loaded.config.to_json()))) == loaded.config


def test_values_outside_a_column_are_named(table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.load(table)
    x[7, 1] = 3.0
    np.save(tmp_path / "bad.npy", x)
    schema = tmp_path / "schema.toml"
    schema.write_text(SCHEMA)
    options = ("--likelihood", "mixed", "--schema", str(schema))
    assert run_main(["train", "--data", str(tmp_path / "bad.npy"), *options, *SMALL]) != 0
    assert "column 'x1' of likelihood 'mixed' takes whole numbers from 0 to 2" in capsys.readouterr().err


def test_files_are_imputed(run: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    x = np.load(table)
    holes = np.random.default_rng(1).random(x.shape) < 0.3
    given = np.where(holes, np.nan, x)
    np.savez(tmp_path / "given.npz", x=given)
    asked = ["impute", str(run), str(tmp_path / "given.npz"), "--k", "30", "--output"]
    assert run_main([*asked, str(tmp_path / "mean.npy")]) == 0
    assert f"imputed {holes.sum()} values of {holes.any(1).sum()} rows with k = 30" in capsys.readouterr().out
    mean = np.load(tmp_path / "mean.npy")
    assert mean.shape == x.shape
    np.testing.assert_array_equal(mean[~holes], x.astype(np.float32)[~holes])
    assert np.isfinite(mean).all()
    assert set(mean[:, 1]) <= {0.0, 1.0, 2.0}
    assert run_main([*asked, str(tmp_path / "draws.npz"), "--draws", "4"]) == 0
    with np.load(tmp_path / "draws.npz") as found:
        assert found["draws"].shape == (4, *x.shape)
        np.testing.assert_array_equal(found["mean"], mean)  # the run's seed is the default
        assert found["ess"].shape == found["pareto_k"].shape == found["log_likelihood"].shape == (80,)
    assert run_main([*asked, str(tmp_path / "median.csv"), "--median", "--seed", "3"]) == 0
    median = np.loadtxt(tmp_path / "median.csv", delimiter=",")
    assert median.shape == x.shape
    assert np.isfinite(median).all()


@pytest.mark.parametrize(
    ("array", "options", "message"),
    [
        (np.zeros((3, 4)), (), "has no missing value: missing ones must be NaN"),
        (np.full((3, 5), np.nan), (), "has observations of 5 numbers, expected the run's 4"),
        (np.full((3, 4), np.inf), (), "has infinity, or numbers beyond float32"),
        (np.full(4, np.nan), (), r"of float64 (4,), expected numbers (N, ...)"),
        (np.full((3, 4), np.nan), ("--output", "out.xls"), "--output must end in .npy, .npz, .csv, got out.xls"),
        (np.full((3, 4), np.nan), ("--draws", "2", "--median"), "--draws and --median exclude each other"),
        (np.full((3, 4), np.nan), ("--draws", "2", "--output", "out.csv"), "must end in .npy or .npz for an array"),
        (np.full((3, 4), np.nan), ("--draws", "-1"), "num_draws must be at least 0, got -1"),
        (np.array([[np.nan, 3.0, 0.0, 0.0]]), (), "column 'x1' of likelihood 'mixed' takes whole numbers"),
    ],
)
def test_files_that_cannot_be_imputed(
    run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    array: np.ndarray,
    options: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    np.save(tmp_path / "given.npy", array)
    where = () if "--output" in options else ("--output", "out.npy")
    assert run_main(["impute", str(run), "given.npy", "--k", "5", *where, *options]) != 0
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not list(tmp_path.glob("out.*"))


def test_bits_per_dimension() -> None:
    """Check a uniform distribution of 8 bits per pixel, and that features that are not pixels have none."""
    assert bits_per_dimension(16 * 8 * float(np.log(2.0)), (4, 4)) == pytest.approx(8.0)
    assert bits_per_dimension(3.0, (1, 16)) is None
