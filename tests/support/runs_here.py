"""Runs of a runner in this process in place of new ones, on few digits."""

from __future__ import annotations

import os
import signal
from contextlib import nullcontext
from dataclasses import replace

import pytest

from iwae_fast import data
from iwae_fast.experiments.cli import interrupt, main, side_by_side, training_run
from iwae_fast.experiments.many.runner import RunError, Runner, Work


def run_here(monkeypatch: pytest.MonkeyPatch, kill_at: int | None = None) -> list[list[str]]:
    """Make runners run their commands in this process; return the list of their arguments, which grows.

    The command number ``kill_at``, from 0, kills the process after it has trained or evaluated.
    """
    called: list[list[str]] = []
    few_digits(monkeypatch)

    def call(self: Runner, work: Work, slot: object, *arguments: str) -> bool:
        called.append(list(arguments))
        with pytest.raises(SystemExit) as ended:
            main(list(arguments))
        if len(called) - 1 == kill_at:
            os.kill(os.getpid(), signal.SIGKILL)
        if ended.value.code:
            raise RunError(f"{work.name} failed")
        return True

    # Signals are the main thread's.
    monkeypatch.setattr(training_run, "stop_on_signals", lambda: nullcontext(lambda: False))
    monkeypatch.setattr(side_by_side, "stop_on_signals", lambda: nullcontext(interrupt.StopFlag()))
    monkeypatch.setattr(Runner, "_call", call)
    return called


def few_digits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make commands use few digits, and draw no pictures, which take seconds per run; return the list of data sets that
    are loaded, which grows."""
    loaded: list[str] = []
    load = data.load

    def few(name: str, **options: bool) -> data.ImageData:
        loaded.append(name)
        images = load(name, **options)
        return replace(images, train=images.train[:40], test=images.test[:20])

    monkeypatch.setattr("iwae_fast.experiments.config.load", few)
    monkeypatch.setattr("iwae_fast.experiments.cli.closing.write_run_report", lambda run, *_: run.report.write_text(""))
    for drawn in ("loss_curve", "reconstructions", "samples"):
        monkeypatch.setattr(f"iwae_fast.experiments.cli.training_run.draw_{drawn}", lambda *_: None)
    return loaded


def killed_command(arguments: list[str], kill_at: int) -> None:
    """Run the command line in this process, which is killed; the target of a process of tests."""
    run_here(pytest.MonkeyPatch(), kill_at)
    main(arguments)
