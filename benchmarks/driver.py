"""Measurements on the CPU: one worker process per provider; they take turns in an order that is shuffled each round."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable

import torch

from . import rows
from .rows import Row
from .work import Provider, Work, refuse_if_wrong
from .workers import Worker, WorkerError

SECONDS_A_WORK = 45.0
"""The time after which no further round of a workload starts, if it has had ``FEWEST_ROUNDS``."""

FEWEST_ROUNDS = 10
"""The minimum number of rounds."""

PAUSE = 0.01
"""Seconds between turns: OpenMP threads spin for a while after their last loop, on cores that the next turn needs."""


def measure(work: Work, rounds: int, report: Callable[[str], None] = print) -> list[Row]:
    """Check and time all providers. Providers that fail are reported and left out; a wrong result raises an error."""
    workers: dict[Provider, Worker] = {}
    values: dict[Provider, list[float]] = {}
    notes: dict[Provider, str] = {}

    def ask(question: Callable[[Provider, Worker], None], provider: Provider) -> None:
        try:
            question(provider, workers[provider])
        except WorkerError as error:
            report(f"{provider.name} is left out of {work}: {error}")
            workers.pop(provider).close()
            values.pop(provider, None)

    def ready(provider: Provider, worker: Worker) -> None:
        notes[provider] = worker.prepare(provider.prepare)
        refuse_if_wrong(work, provider, worker.evidence())
        values[provider] = []

    def turn(provider: Provider, worker: Worker) -> None:
        values[provider].append(statistics.median(worker.burst()))
        time.sleep(PAUSE)

    def peak(provider: Provider, worker: Worker) -> None:
        values[provider].append(worker.peak_bytes())

    try:
        for provider in work.providers:  # all start together; then each is prepared while the others are idle
            workers[provider] = Worker(torch.get_num_threads())
        for provider in work.providers:
            ask(ready, provider)
        if work.metric == "peak bytes":
            for provider in list(workers):
                ask(peak, provider)
        else:
            order = random.Random(0)
            started = time.monotonic()
            for index in range(rounds):
                if index >= FEWEST_ROUNDS and time.monotonic() - started > SECONDS_A_WORK:
                    break
                for provider in order.sample(list(workers), len(workers)):
                    ask(turn, provider)
    finally:
        for worker in workers.values():
            worker.hang_up()
        for worker in workers.values():
            worker.close()
    return rows.make(work, values, notes)
