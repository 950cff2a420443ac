"""Tests that a run that is killed repeatedly, at any point, ends bitwise equal to one that is not interrupted."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from pathlib import Path

import forkserver
import pytest
from killed_training import command_line
from same_run import assert_same_run

from iwae_fast.experiments.train.runs import Run

SMALL = ("--hidden", 8, "--latent", 2, "--k", 2, "--batch-size", 800, "--epochs", 6, "--eval-k", 0)
"""12 steps, two an epoch, so that many a kill comes between a row of the metrics and its checkpoint."""
KILLS, LINES = 10, 100


@pytest.fixture
def iwae_train() -> Callable[..., int]:
    """Run ``iwae-fast train`` in a new process and return its exit code."""

    def run(*arguments: object, lines: int | None = None) -> int:
        process = forkserver.context().Process(target=command_line, args=(["train", *map(str, arguments)], lines))
        process.start()
        process.join()
        return process.exitcode

    return run


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="processes here are not killed by a signal")
def test_a_run_that_was_killed_leaves_no_trace_of_it(iwae_train: Callable[..., int], tmp_path: Path) -> None:
    whole, killed = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    assert iwae_train(*SMALL, "-o", whole.folder) == 0
    moments = random.Random(1)
    arguments = (*SMALL, "-o", killed.folder)
    for _ in range(KILLS):
        assert iwae_train(*arguments, lines=moments.randrange(LINES)) == -signal.SIGKILL
        arguments = ("--resume", killed.folder, "--eval-k", 0)
    assert iwae_train(*arguments) == 0
    assert_same_run(whole, killed)
    assert {path.name for path in killed.folder.iterdir()} == {path.name for path in whole.folder.iterdir()}
