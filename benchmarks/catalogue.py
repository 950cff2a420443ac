"""Which works there are, each made when its turn comes. A name says what ``--only`` looks for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from . import (
    bernoulli_iwae_loss,
    bernoulli_log_prob,
    copy,
    evaluation,
    gaussian_log_prob,
    linear_bernoulli_iwae_loss,
    linear_bernoulli_log_prob,
    log_mean_exp,
    memory,
    sample_gaussian,
    training_step,
)
from .networks import Setting
from .work import Work

Catalogue = dict[str, Callable[[], list[Work]]]


def cpu(quick: bool = False) -> Catalogue:
    """The papers' sizes: batches of 20, and 1, 5 and 50 samples; 500 and 5000 where that is the point."""
    device = torch.device("cpu")
    works: Catalogue = {}
    for k in (50,) if quick else (50, 5, 1):
        works[f"bernoulli_iwae_loss k={k}"] = partial(bernoulli_iwae_loss.works, device, k, 20)
    if not quick:
        works["bernoulli_log_prob k=50"] = partial(bernoulli_log_prob.works, device, 50, 20)
        works["gaussian_log_prob k=50"] = partial(gaussian_log_prob.works, device, 50, 20)
        works["log_mean_exp k=50"] = partial(log_mean_exp.works, device, 50, 20)
        works["linear_bernoulli_log_prob k=50"] = partial(linear_bernoulli_log_prob.works, device, 50, 20)
        works["linear_bernoulli_iwae_loss k=50"] = partial(linear_bernoulli_iwae_loss.works, device, 50, 20)
        works["sample_gaussian k=50"] = partial(sample_gaussian.works, device, 50, 20)
    for k in (50,) if quick else (1, 50, 500):
        works[f"step k={k}"] = partial(training_step.works, Setting(k))
    for k in (500,) if quick else (5000,):
        works[f"evaluation k={k}"] = partial(evaluation.works, Setting(k))
    for k in (50,) if quick else (50, 500):
        works[f"step memory k={k}"] = partial(memory.step_works, Setting(k))
    for k in (100,) if quick else (100, 5000, 50000):
        works[f"evaluation memory k={k}"] = partial(memory.evaluation_works, replace(Setting(k), batch=1))
    return works


def gpu(quick: bool = False) -> Catalogue:  # noqa: ARG001 - a GPU's works are all quick
    """Sizes several times the second-level cache, where memory sets the pace, and the papers' batch of 20."""
    device = torch.device("cuda")
    return {
        "copy": partial(copy.works, device, 2**30),
        "bernoulli_iwae_loss B=1024": partial(bernoulli_iwae_loss.works, device, 50, 1024),
        "bernoulli_iwae_loss B=20": partial(bernoulli_iwae_loss.works, device, 50, 20),
        "bernoulli_log_prob float32": partial(bernoulli_log_prob.works, device, 50, 2048),
        "bernoulli_log_prob bfloat16": partial(bernoulli_log_prob.works, device, 50, 2048, dtype=torch.bfloat16),
        "gaussian_log_prob": partial(gaussian_log_prob.works, device, 50, 2048),
        "log_mean_exp": partial(log_mean_exp.works, device, 50, 2**20),
        "sample_gaussian": partial(sample_gaussian.works, device, 50, 1024),
    }
