"""Comparison of two runs: everything except for the elapsed time must be equal."""

from __future__ import annotations

from dataclasses import replace

import torch

from iwae_fast.experiments.train.checkpoint import load_checkpoint
from iwae_fast.experiments.train.metrics import EpochMetrics, read_metrics
from iwae_fast.experiments.train.runs import Run


def assert_same_run(first: Run, second: Run) -> None:
    """Assert that parameters, optimizer state and metrics of two runs are bitwise equal."""
    one, two = load_checkpoint(first.checkpoint), load_checkpoint(second.checkpoint)
    assert one.step == two.step
    torch.testing.assert_close(one.model, two.model, rtol=0, atol=0)
    torch.testing.assert_close(one.optimizer, two.optimizer, rtol=0, atol=0)
    assert torch.equal(one.epoch_sums, two.epoch_sums)
    assert _rows(first) == _rows(second)


def _rows(run: Run) -> list[EpochMetrics]:
    return [replace(row, seconds=0.0, steps_per_second=0.0) for row in read_metrics(run.metrics)]
