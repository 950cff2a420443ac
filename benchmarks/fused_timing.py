"""Times of training steps in one launch on a GPU, beside the predicted ones: ``python -m benchmarks.fused_timing``.

A launch of many steps is timed by events, so the figures are device times per step, without Python.
"""

from __future__ import annotations

import statistics

import torch

import iwae_fast as iw
from iwae_fast.fused import refusal

from . import fused_step
from .networks import LEARNING_RATE, Setting, observations, vae
from .precision import TF32, products_of

STEPS = 100
"""Steps of a launch."""
LAUNCHES = 5


def seconds_per_step(setting: Setting) -> float:
    """Return the median time of a step in launches of many.

    Raises ValueError with the reason if the steps are not served.
    """
    model, x = vae(setting, None), observations(setting)
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=setting.k)
    optimizer = iw.optim.Adam(model.parameters(), lr=LEARNING_RATE)
    if (reason := refusal(objective, model, optimizer)) is not None:
        raise ValueError(reason)
    step = iw.FusedStep(objective, model, optimizer, x, seed=0)  # type: ignore[arg-type]
    rows = torch.arange(setting.batch, device=setting.device).repeat(STEPS, 1)
    step(rows)
    times = []
    for _ in range(LAUNCHES):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        step(rows)
        end.record()
        end.synchronize()
        times.append(begin.elapsed_time(end) / 1e3 / STEPS)
    return statistics.median(times)


def main() -> None:
    print(f"training steps in one launch, us per step, {STEPS} steps a launch")
    for k, batch in fused_step.SIZES:
        for dtype, products in (("float32", 3), (TF32, 1)):
            setting = Setting(k, batch, device=torch.device("cuda"))
            predicted = fused_step.seconds(fused_step.papers_network(k, batch), products)
            with products_of(dtype):
                measured = seconds_per_step(setting)
            print(
                f"k={k} B={batch} {dtype}: measured {1e6 * measured:.1f}, predicted {1e6 * predicted:.1f}", flush=True
            )


if __name__ == "__main__":
    main()
