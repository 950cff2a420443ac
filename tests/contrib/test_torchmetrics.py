"""Tests of the negative log-likelihood as a metric, in one process and in two."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as dist

pytest.importorskip(
    "torchmetrics", reason="torchmetrics, which lightning of the extra trainers brings, is not installed"
)

from metric_worker import SETTINGS, model, observations, on_ranks

import iwae_fast as iw
from iwae_fast.contrib.torchmetrics import NegativeLogLikelihood

NUMBERS = {name: value for name, value in SETTINGS.items() if name != "detailed"}


def expected(found: iw.evaluate.LogLikelihood) -> dict[str, torch.Tensor]:
    return {
        "nll": torch.tensor(-found.mean, dtype=torch.float64),
        "std_error": torch.tensor(found.mean_std_error, dtype=torch.float64),
        "pareto_k_too_high": (found.pareto_k > 0.7).double().mean(),
        "pareto_k_undefined": found.pareto_k.isnan().double().mean(),
    }


@pytest.mark.parametrize("call", ["update", "forward"])
def test_batches_are_the_whole(call: str) -> None:
    whole = iw.evaluate.log_likelihood(model(), observations(), **NUMBERS)
    metric = NegativeLogLikelihood(**SETTINGS)
    first = 0
    for x in observations().split(5):
        batch = getattr(metric, call)(model(), x)
        if call == "forward":
            torch.testing.assert_close(batch["nll"], -whole.value[first : first + len(x)].mean())
        first += len(x)
    torch.testing.assert_close(metric.compute(), expected(whole))
    metric.reset()
    metric.update(model(), observations())
    torch.testing.assert_close(metric.compute(), expected(whole))


def test_the_result_is_a_scalar_that_can_be_logged() -> None:
    metric = NegativeLogLikelihood(**NUMBERS)
    metric.update(iw.evaluate.FromDraws(model().log_weights), observations())
    found = metric.half().compute()  # a metric keeps the dtype of its state
    assert found.shape == ()
    assert found.dtype == torch.float64
    assert metric.update.__doc__
    other = NegativeLogLikelihood(**NUMBERS)
    other.update(model(), observations()[:3])
    other.merge_state(metric)
    assert other.count == 17
    with pytest.warns(UserWarning, match="before the ``update``"):
        assert NegativeLogLikelihood().compute().isnan()
    for arguments, message in (({"num_samples": 0}, "num_samples must be"), ({"seed": -1}, "seed must be at least 0")):
        with pytest.raises(ValueError, match=message):
            NegativeLogLikelihood(**arguments)


@pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo")
@pytest.mark.parametrize("empty", [False, True])
def test_ranks_are_one_process(empty: bool, tmp_path: Path) -> None:
    """Check the result of both ranks for unequal numbers of observations, and where one rank has none."""
    x = observations()[:9] if empty else observations()
    whole = expected(iw.evaluate.log_likelihood(model(), x, **NUMBERS))
    results = on_ranks(tmp_path, empty)
    for found in results:
        torch.testing.assert_close(found["metric"], whole, rtol=1e-12, atol=1e-12)
    assert results[0]["own"] == results[1]["own"]
    # Without offsets: 4 equal observations on the first rank and 6 on the second, each with noise of its own.
    by_rank = [(4, 0)] if empty else [(4, 0), (6, 2**31)]
    values = [
        iw.evaluate.log_likelihood(model(), x[:1].expand(count, 7), observation_offset=first, **NUMBERS).value
        for count, first in by_rank
    ]
    torch.testing.assert_close(results[0]["own"]["nll"], -torch.cat(values).mean(), rtol=1e-12, atol=0.0)
