"""Worker processes, one per provider, with their own heap, caches and threads. They block on a pipe between turns."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

import torch

from .peak_memory import PeakMemory
from .work import Evidence, Task

BURST_SECONDS = 0.02
"""The duration of a turn, or one call if that is longer: most of it runs with the provider's own data in the caches."""

START_METHOD = "spawn"
"""The start method of multiprocessing: workers do not inherit the driver's memory."""


class WorkerError(RuntimeError):
    """Raised for an error in a worker, which it describes in one line."""


class Worker:
    """The driver's handle of a worker process, which terminates with the driver in any case."""

    def __init__(self, threads: int) -> None:
        context: Any = multiprocessing.get_context(START_METHOD)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, threads), daemon=True)
        self._process.start()
        theirs.close()

    def prepare(self, prepare: Callable[[], Task]) -> str:
        """Prepare the provider, and return the settings that it chose itself."""
        return self._ask("prepare", prepare)

    def evidence(self) -> Evidence:
        return self._ask("evidence")

    def burst(self) -> list[float]:
        """Return the seconds of each call of a turn, without a first call that warms up the worker."""
        return self._ask("burst")

    def peak_bytes(self) -> int:
        """Return the peak bytes of live tensors during a call, excluding those that existed before."""
        return self._ask("peak_bytes")

    def hang_up(self) -> None:
        """Close the connection, so that the worker ends after its turn."""
        self._connection.close()

    def close(self, patience: float = 2.0) -> None:
        """Wait at most ``patience`` seconds for the worker to end, then kill it."""
        self.hang_up()
        self._process.join(patience)
        self._process.kill()
        self._process.join()

    def _ask(self, question: str, *arguments: Any) -> Any:
        try:
            self._connection.send((question, arguments))
            failed, answer = self._connection.recv()
        except (EOFError, OSError):
            self._process.join(timeout=1.0)
            raise WorkerError(f"its process died (exit code {self._process.exitcode})") from None
        if failed:
            raise WorkerError(answer)
        return answer


def serve(connection: Connection, threads: int) -> None:
    """Answer the driver's questions until it disconnects; Ctrl-C is handled by the driver."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_the_driver, daemon=True).start()
    torch.set_num_threads(threads)
    answers = _Answers()
    with contextlib.suppress(EOFError, OSError):  # the driver has hung up
        while True:
            connection.send(_answer(connection, answers))


def _answer(connection: Connection, answers: _Answers) -> tuple[bool, Any]:
    """Return (False, answer) of the next question, or (True, error) if it failed."""
    try:
        question, arguments = connection.recv()
        return False, getattr(answers, question)(*arguments)
    except EOFError:
        raise
    except Exception as error:  # a rival may raise anything; the driver reports it
        return True, f"{type(error).__name__}: {error}".splitlines()[0]


def _die_with_the_driver() -> None:
    """End the process when the driver ends: a worker in a long call does not notice that its pipe was closed."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
    os._exit(1)


class _Answers:
    """The worker's methods, by question."""

    task: Task

    def prepare(self, prepare: Callable[[], Task]) -> str:
        self.task = prepare()
        return self.task.note

    def evidence(self) -> Evidence:
        return self.task.evidence()

    def burst(self) -> list[float]:
        self.task.run()
        seconds: list[float] = []
        while sum(seconds) < BURST_SECONDS:
            start = time.perf_counter()
            self.task.run()
            seconds.append(time.perf_counter() - start)
        return seconds

    def peak_bytes(self) -> int:
        self.task.run()  # allocates what persists, such as an optimizer's state, before the measurement
        with PeakMemory() as memory:
            self.task.run()
        return memory.peak
