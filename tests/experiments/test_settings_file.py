"""Tests of settings files: a run is the same by its file, its printed settings and its config.json."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer")
pytest.importorskip("sklearn")

from iwae_fast.experiments.cli import main, training_run
from iwae_fast.experiments.cli.training_run import Asked
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.settings_file import read_settings, toml

pytestmark = pytest.mark.xdist_group("command line")

Here = Callable[..., tuple[int, str, str]]


@pytest.fixture
def here(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture) -> Here:
    """Return a function that runs ``iwae-fast train`` in this process and returns exit code, output and error."""
    monkeypatch.chdir(tmp_path)

    def run_here(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as ended:
            main(["train", *map(str, arguments)])
        return ended.value.code, *capsys.readouterr()

    return run_here


@pytest.fixture
def asked(here: Here, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Asked]:
    """Return a function that returns what a command line asks for, without doing it."""
    found: list[Asked] = []
    monkeypatch.setattr(training_run, "perform", lambda what, _: found.append(what))

    def ask(*arguments: object) -> Asked:
        code, _, error = here(*arguments)
        assert code == 0, error
        return found.pop()

    return ask


def write(text: str, name: str = "run.toml") -> str:
    Path(name).write_text(text)
    return name


def test_a_file_has_the_names_of_options_and_these_take_precedence(asked: Callable[..., Asked]) -> None:
    options = ("--bound", "vr-iwae", "--alpha", 0.3, "--kl-warmup", 5, "--hidden", "8,8/6", "--latent", "4,2")
    wanted = asked(*options, "--no-capture", "--learning-rate", 1, "--log", "none", "-o", "mine").config()
    file = write(
        'bound = "vr-iwae"\nalpha = 0.3\nkl-warmup = 5 # steps\nhidden = [[8, 8], [6]]\nlatent = [4, 2]\n'
        'capture = false\nlearning_rate = 1\noutput = "mine"\nlog = "none"\n'
    )
    by_file = asked("--config", file)
    assert by_file.config() == wanted
    assert (by_file.output, by_file.log) == (Path("mine"), ())
    over = asked("--config", file, "--kl-warmup", 7, "--capture", "-o", "other", "--hidden", "9/9")
    assert (over.config().kl_warmup, over.config().capture, over.output) == (7, True, Path("other"))
    assert over.config().hidden == ((9,), (9,))
    assert over.config().alpha == 0.3
    # What the file says of its own bound has no effect on another one, and is not an error then.
    other = asked("--config", file, "--bound", "ciwae").config()
    assert (other.bound, other.alpha) == ("ciwae", TrainConfig.preset("digits").alpha)
    text = asked("--config", write('hidden = "8,8/6"\nlatent = "4,2"\nbudget = "none"')).config()
    assert (text.hidden, text.latent, text.budget) == (wanted.hidden, wanted.latent, None)
    assert asked("--config", write("hidden = 7\nlatent = 3")).config().hidden == ((7,),)


def test_stages_give_the_epochs_unless_these_are_given_too(asked: Callable[..., Asked]) -> None:
    file = write('protocol = "paper"\nstages = 2\n')
    assert asked("--config", file).config().epochs == 4
    assert asked("--config", file, "--stages", 3).config().epochs == 13
    assert asked("--config", file, "--epochs", 9).config().epochs == 9
    both = write('protocol = "paper"\nstages = 2\nepochs = 50')
    assert (asked("--config", both).config().epochs, asked("--config", both, "--stages", 3).config().epochs) == (50, 13)
    constant = asked("--config", both, "--protocol", "constant").config()
    assert (constant.stages, constant.epochs) == (8, 50)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--dataset", "mnist", "--latent", "20,10", "--bound", "miwae", "--groups", 2, "--k", 8, "--budget", 4),
        ("--protocol", "paper", "--stages", 3, "--seed", 2**62, "--backend", "reference"),
        ("--lr-schedule", "cosine", "--lr-final", 1e-5, "--max-norm", 0.1, "--patience", 3, "--validation", 7),
        ("--data", 'odd "name" \u00e9 \\ \U0001f600.npy', "--log", "none", "--no-capture", "-o", "a b"),
    ],
    ids=str,
)
def test_printed_settings_give_the_same_run(here: Here, asked: Callable[..., Asked], options: tuple) -> None:
    code, printed, error = here(*options, "--print-config")
    assert (code, error) == (0, "")
    write(printed)
    by_options, by_file = asked(*options), asked("--config", "run.toml")
    assert by_file.config() == by_options.config()
    assert (by_file.output, by_file.log or ()) == (by_options.output, by_options.log or ())
    assert here("--config", "run.toml", "--print-config") == (0, printed, "")
    assert not list(Path().glob("runs*"))


def test_the_settings_of_a_run_give_the_same_run(asked: Callable[..., Asked]) -> None:
    config = TrainConfig.preset("digits", k=4, epochs=3, alpha=0.9, budget=2, patience=2, validation=9)
    Path("config.json").write_text(json.dumps(config.to_json()))
    found = asked("--config", "config.json").config()
    assert found.relevant() == config.relevant()
    assert asked("--config", "config.json", "--bound", "elbo", "--seed", 5).config().seed == 5


def test_settings_of_a_resumed_run_are_printed(here: Here, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training_run, "_close", lambda *_: None)  # pictures take seconds
    small = ("--hidden", 4, "--latent", 2, "--k", 2, "--batch-size", 700)
    assert here(*small, "--epochs", 1, "-o", "run")[0] == 0
    code, printed, _ = here("--resume", "run", "--epochs", 3, "--print-config")
    assert code == 0
    assert "epochs = 3\n" in printed
    assert "batch_size = 700\n" in printed
    assert json.loads(Path("run/config.json").read_text())["epochs"] == 1
    # The run's own settings change nothing.
    code, _, error = here("--resume", "run", "--config", "run/config.json", "--seed", 4)
    assert (code, error.count("\n")) == (2, 1)
    assert "a run cannot be resumed with another seed" in error
    assert here("--resume", "run", "--config", "run/config.json")[0] == 0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("lerning-rate = 0.1", "run.toml: unknown setting 'lerning_rate': did you mean 'learning_rate'? choose one of"),
        ("epochs = 2.5", "run.toml: epochs must be an int, got 2.5"),
        ("epochs = true", "run.toml: epochs must be an int, got True"),
        ('epochs = "many"', "run.toml: epochs must be an int, got 'many'"),
        ("capture = 1", "run.toml: capture must be true or false, got 1"),
        ("bound = 3", "run.toml: bound must be a string, got 3"),
        ("learning-rate = [1e-3]", "run.toml: learning_rate must be a float, got [0.001]"),
        ("hidden = [2.5]", "run.toml: hidden must be sizes of layers, such as [200,200], got 2.5"),
        ("log = 3", "run.toml: log must be a string or a list of strings, got 3"),
        ('output = ["a"]', "run.toml: output must be a string, got ['a']"),
        ("k = 5\nK = 5", "run.toml: unknown setting 'K'"),
        ("batch-size = 5\nbatch_size = 5", "run.toml: batch_size is given twice, by another name of the same setting"),
        ('data = "a.npy"\ndataset = "digits"', "run.toml: dataset is given twice, by another name of the same setting"),
        ("[train]\nk = 5", "run.toml: unknown setting 'train'"),
        ("k = ", "run.toml is not TOML: Invalid value"),
        ("k = 0", "k must be at least 1, got 0"),
        ("alpha = 0.3", "--alpha is an option of bound vr-iwae, and has no effect on bound 'iwae'"),
        ("stages = 2\nepochs = 3", "--stages has no effect beside --epochs"),
        ("lr-final = 0.5", "--lr-final has no effect without --lr-schedule"),
        ('log = ["tensorbord"]', "unknown tracker 'tensorbord': did you mean 'tensorboard'?"),
    ],
)
def test_bad_files(here: Here, text: str, message: str) -> None:
    code, _, error = here("--config", write(text), "--print-config")
    assert (code, error.count("\n")) == (2, 1)
    assert f"iwae-fast: error: {message}" in error


def test_files_that_cannot_be_read(here: Here, tmp_path: Path) -> None:
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "list.json").write_text("[1]")
    for name, message in (
        ("none.toml", "none.toml: no such file or directory"),
        ("folder.toml", "folder.toml: is a directory"),
        ("list.json", "list.json must hold a JSON object, got list"),
    ):
        assert here("--config", name)[::2] == (2, f"iwae-fast: error: {message}\n")


def test_toml_has_every_kind_of_value(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"k": 3, "learning_rate": 1e-7, "hidden": ((4, 4),), "capture": False, "prior": "vamp"}
    (tmp_path / "run.toml").write_text(toml({**settings, "budget": None}))
    assert read_settings(tmp_path / "run.toml").settings == settings
