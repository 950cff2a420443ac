"""Tests of commands that must respond without importing torch: help, version, completion and usage errors."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from paths import ROOT

pytest.importorskip("typer")

from iwae_fast import backends
from iwae_fast._version import __version__
from iwae_fast.data import DATASETS
from iwae_fast.experiments import networks, protocols, schedules
from iwae_fast.experiments.cli import choices, main
from iwae_fast.experiments.observation_model import NAMES
from iwae_fast.experiments.reproduce.scales import SCALES
from iwae_fast.experiments.reproduce.tables import TABLES
from iwae_fast.experiments.sweep.search import SAMPLERS
from iwae_fast.experiments.trackers.table import TRACKERS
from iwae_fast.objectives.estimators import ESTIMATORS

PACKAGE = ROOT
COMMANDS = ("train", "evaluate", "impute", "compare", "sample", "reproduce", "sweep", "info")
COMPLETED = {
    "iwae-fast train --dataset m": ["mnist"],
    "iwae-fast train --bound v": ["vr-iwae"],
    "iwae-fast train --estimator aisle": ["aisle-kl", "aisle-chi2"],
    "iwae-fast train --lr-schedule c": ["constant", "cosine"],
    "iwae-fast train --log ": ["tensorboard", "wandb", "mlflow", "none"],
    "iwae-fast train --log w": ["wandb"],
    "iwae-fast sweep --sampler r": ["random"],
    "iwae-fast evaluate --backend tr": ["triton"],
    "iwae-fast train --print": ["--print-config"],
}
"""Beginnings of command lines and their completions."""
ASKED = """
import contextlib, io, json, os, sys
from iwae_fast.experiments.cli import main

def ask(*arguments):
    out, error = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
        try:
            main(list(arguments))
        except SystemExit as ended:
            code = ended.code
    return code, out.getvalue(), error.getvalue()

found = {" ".join(arguments): ask(*arguments) for arguments in json.loads(sys.argv[1])}
os.environ["_IWAE_FAST_COMPLETE"] = "complete_bash"
for words in json.loads(sys.argv[2]):
    os.environ |= {"COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    found[words] = ask()
print(json.dumps([found, "torch" in sys.modules]))
"""


@pytest.fixture(scope="module")
def answers() -> dict[str, tuple[int, str, str]]:
    """Return exit code, output and error of each command line, run in one process that never imports torch."""
    asked = [["--version"], ["--help"], *([name, "--help"] for name in COMMANDS)]
    asked += [["trian", "--help"], ["train", "--datset", "mnist"], ["evaluate", "--help"], ["--versoin"]]
    environment = {**os.environ, "PYTHONPATH": str(PACKAGE), "COLUMNS": "100"}
    command = [sys.executable, "-c", ASKED, json.dumps(asked), json.dumps([*COMPLETED])]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    found, imported = json.loads(result.stdout)
    assert not imported
    return found


def test_version(answers: dict[str, tuple[int, str, str]]) -> None:
    assert answers["--version"] == [0, f"iwae_fast {__version__}\n", ""]


def test_help(answers: dict[str, tuple[int, str, str]]) -> None:
    assert all(name in answers["--help"][1] for name in (*COMMANDS, "--install-completion", "--version"))
    for name in COMMANDS:
        code, shown, error = answers[f"{name} --help"]
        assert (code, error) == (0, "")
        assert f"Usage: iwae-fast {name}" in shown
    assert "vr-iwae" in answers["train --help"][1]


def test_slips_are_answered_with_the_nearest(answers: dict[str, tuple[int, str, str]]) -> None:
    for asked, nearest in (
        ("trian --help", "train"),
        ("train --datset mnist", "--dataset"),
        ("--versoin", "--version"),
    ):
        code, _, error = answers[asked]
        assert code == 2
        assert error.startswith("iwae-fast: error: No such ")
        assert nearest in error


def test_completion(answers: dict[str, tuple[int, str, str]]) -> None:
    for words, values in COMPLETED.items():
        code, shown, _ = answers[words]
        assert (code, shown.split()) == (0, values), words


@pytest.mark.parametrize(
    ("copied", "registered"),
    [
        (choices.DATASETS, DATASETS),
        (choices.PROTOCOLS, protocols.PROTOCOLS),
        (choices.SCHEDULES, schedules.SCHEDULES),
        (choices.TRACKERS, TRACKERS),
        (choices.NETWORKS, networks.NETWORKS),
        (choices.LIKELIHOODS, NAMES),
        (choices.PRIORS, networks.PRIORS),
        (choices.ESTIMATORS, ESTIMATORS),
        (choices.BACKENDS, (*backends.NATIVE, backends.REFERENCE)),
        (choices.TABLES, TABLES),
        (choices.SCALES, SCALES),
        (choices.SAMPLERS, SAMPLERS),
    ],
)
def test_the_names_are_those_of_the_library(copied: tuple[str, ...], registered: dict[str, object]) -> None:
    assert copied == tuple(registered)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("train", "--dataset", "mnsit"),
            "unknown data set 'mnsit': did you mean 'mnist'? choose one of digits, mnist",
        ),
        (("train", "--bound", "vriwae"), "unknown bound 'vriwae': did you mean 'vr-iwae'?"),
        (("train", "--estimator", "drge"), "got 'drge': did you mean 'dreg'?"),
        (("train", "--likelihood", "gausian"), "unknown likelihood 'gausian': did you mean 'gaussian'?"),
        (("train", "--prior", "vampp"), "unknown prior 'vampp': did you mean 'vamp'?"),
        (("train", "--backend", "referenec"), "unknown backend 'referenec': did you mean 'reference'?"),
        (("reproduce", "digit"), "unknown table 'digit': did you mean 'digits'?"),
        (("reproduce", "digits", "--scale", "smal"), "unknown scale 'smal': did you mean 'small'?"),
    ],
)
def test_values_are_answered_with_the_nearest(
    arguments: tuple[str, ...],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main(arguments)
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not any(tmp_path.iterdir())


def test_waiting_threads_sleep() -> None:
    """Check that the policy is set before torch loads OpenMP, unless the user has set another one."""
    told = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    for given, policy in ({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "active"}, "ACTIVE"):
        result = subprocess.run(
            [sys.executable, "-m", "iwae_fast", "info", "--json"],
            env={**told, "PYTHONPATH": str(PACKAGE), "OMP_DISPLAY_ENV": "true", **given},
            capture_output=True,
            text=True,
            check=True,
        )
        if "OMP_WAIT_POLICY" not in result.stderr:
            pytest.skip("this OpenMP does not show its settings")
        assert f"OMP_WAIT_POLICY = '{policy}'" in result.stderr
