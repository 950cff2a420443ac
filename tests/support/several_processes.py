"""Commands of several processes, as torchrun starts them, but forked from one that has already imported torch."""

from __future__ import annotations

import os
import sys
import time
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import NamedTuple

import forkserver
import torch.distributed as dist

PATIENCE = 60.0
"""Seconds after which a process that has not ended fails the test."""


class Ended(NamedTuple):
    """Exit codes and output of the processes of a command."""

    codes: list[int]
    """Exit codes by rank."""
    output: str
    error: str
    seconds: list[float]
    """Seconds of each process since the first one ended."""


class Several:
    """A command that several processes run.

    Args:
        arguments: those of ``iwae-fast``.
        size: number of processes.
        folder: the working directory.
        lines: number of lines of training after which a process is killed, by rank.
        raises: rank that raises KeyError at its second step.
    """

    def __init__(
        self,
        *arguments: object,
        size: int,
        folder: Path,
        lines: dict[int, int] | None = None,
        raises: int | None = None,
    ) -> None:
        # As under torchrun, the store that the processes share outlives them.
        self.store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self.folder = folder
        self.processes: list[ForkServerProcess] = []
        for rank in range(size):
            environment = {
                "RANK": rank,
                "LOCAL_RANK": rank,
                "WORLD_SIZE": size,
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": self.store.port,
                "TORCHELASTIC_USE_AGENT_STORE": True,
            }
            given = [str(argument) for argument in arguments]
            options = (lines or {}).get(rank), rank == raises
            process = forkserver.context().Process(target=_process, args=(environment, given, str(folder), *options))
            process.start()
            self.processes.append(process)

    def await_epoch(self, run: str, epoch: int) -> None:
        """Wait until training has ended an epoch."""
        metrics, deadline = self.folder / run / "metrics.csv", time.monotonic() + PATIENCE
        while not metrics.exists() or metrics.read_text().count("\n") <= epoch:
            assert time.monotonic() < deadline, self.end()
            time.sleep(0.02)

    def end(self) -> Ended:
        """Wait for the end of all processes."""
        deadline = time.monotonic() + PATIENCE
        ends: dict[int, float] = {}
        while len(ends) < len(self.processes) and time.monotonic() < deadline:
            for rank, process in enumerate(self.processes):
                if process.exitcode is not None:
                    ends.setdefault(rank, time.monotonic())
            time.sleep(0.02)
        for process in self.processes:
            process.kill()
            process.join()
        assert len(ends) == len(self.processes), f"only {sorted(ends)} ended: {self._text('error')}"
        first = min(ends.values())
        codes = [process.exitcode for process in self.processes]
        return Ended(codes, self._text("output"), self._text("error"), [end - first for end in ends.values()])

    def _text(self, name: str) -> str:
        return "".join((self.folder / f"{rank}.{name}").read_text() for rank in range(len(self.processes)))


def _process(
    environment: dict[str, object], arguments: list[str], folder: str, lines: int | None, raises: bool
) -> None:
    os.chdir(folder)
    os.environ.update({name: str(value) for name, value in environment.items()})
    for number, name in ((1, "output"), (2, "error")):
        os.dup2(os.open(f"{environment['RANK']}.{name}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    import torch
    from killed_training import command_line

    from iwae_fast.experiments.cli import main
    from iwae_fast.experiments.train.steps import Steps

    torch.set_num_threads(1)
    if raises:
        take = Steps.take

        def fail(steps: Steps, step: int) -> int:
            if step == 1:
                raise KeyError("lost")
            return take(steps, step)

        Steps.take = fail  # type: ignore[method-assign]
    try:
        main(arguments) if lines is None else command_line(arguments, lines)
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
