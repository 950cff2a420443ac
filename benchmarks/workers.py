"""One process a provider: its own heap, caches and threads, asleep on a pipe while another provider has its turn."""

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
"""A turn is so long, or one call: the caches are the provider's own for most of it."""

START_METHOD = "spawn"
"""Multiprocessing's way to start a worker, which begins with nothing of the driver's memory."""


class WorkerError(RuntimeError):
    """What went wrong in a worker, in one line."""


class Worker:
    """The driver's end of a worker. It ends with the driver, however that ends."""

    def __init__(self, threads: int) -> None:
        context: Any = multiprocessing.get_context(START_METHOD)
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs, threads), daemon=True)
        self._process.start()
        theirs.close()

    def prepare(self, prepare: Callable[[], Task]) -> str:
        """Make the provider ready; what it chose for itself."""
        return self._ask("prepare", prepare)

    def evidence(self) -> Evidence:
        return self._ask("evidence")

    def burst(self) -> list[float]:
        """The seconds of each call of a turn. The one before them woke the worker up and does not count."""
        return self._ask("burst")

    def peak_bytes(self) -> int:
        """Bytes of tensors alive at most during a call, above those that were there before."""
        return self._ask("peak_bytes")

    def hang_up(self) -> None:
        """The worker ends when it has finished its turn."""
        self._connection.close()

    def close(self, patience: float = 2.0) -> None:
        """Wait so many seconds for its end, and then no longer."""
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
    """Answer the driver's questions until it is gone. Ctrl-C is the driver's affair."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_die_with_the_driver, daemon=True).start()
    torch.set_num_threads(threads)
    answers = _Answers()
    with contextlib.suppress(EOFError, OSError):  # the driver has hung up
        while True:
            connection.send(_answer(connection, answers))


def _answer(connection: Connection, answers: _Answers) -> tuple[bool, Any]:
    """Whether the next question failed, and the answer or what went wrong."""
    try:
        question, arguments = connection.recv()
        return False, getattr(answers, question)(*arguments)
    except EOFError:
        raise
    except Exception as error:  # whatever a rival raises: the driver reports it
        return True, f"{type(error).__name__}: {error}".splitlines()[0]


def _die_with_the_driver() -> None:
    """A worker in a long call does not see its pipe close."""
    driver = multiprocessing.parent_process()
    if driver is not None:
        driver.join()
    os._exit(1)


class _Answers:
    """What a worker does, by question."""

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
        self.task.run()  # what stays, such as an optimiser's state, is there before
        with PeakMemory() as memory:
            self.task.run()
        return memory.peak
