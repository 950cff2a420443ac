"""The list of workloads, each created right before it runs. ``--only`` matches their names."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch

from iwae_fast.experiments.protocols import STAGES, passes

from . import (
    bernoulli_iwae_loss,
    bernoulli_log_prob,
    copy,
    evaluation,
    gaussian_iwae_loss,
    gaussian_log_prob,
    linear_activation,
    linear_bernoulli_iwae_loss,
    linear_bernoulli_log_prob,
    log_mean_exp,
    many_models,
    memory,
    sample_gaussian,
    standard_gaussian_log_prob,
    training,
    training_step,
)
from .networks import Convolutional, Setting, TwoLayers
from .targets import Target, at_most, copy_bandwidth, times
from .work import Work

Catalogue = dict[str, Callable[[], list[Work]]]


def cpu(quick: bool = False) -> Catalogue:
    """Return the CPU workloads: the papers' batch of 20 with 1, 5 and 50 samples, or 500 and more where relevant."""
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
    """Return the GPU workloads: sizes several times the L2 cache, which are limited by memory, and the papers' batch of
    20. The most informative come first, since a run may be cut short."""
    device = torch.device("cuda")
    paper = Setting(50, device=device)
    steps = (
        *(replace(paper, k=k) for k in (1, 5, 500)),
        replace(paper, batch=100),
        TwoLayers(50, device=device),
        *(Convolutional(k, device=device) for k in (50, 1)),
    )
    return {
        "copy": partial(copy.works, device),
        "bernoulli_iwae_loss B=1024": partial(bernoulli_iwae_loss.works, device, 50, 1024),
        "bernoulli_log_prob float32": partial(bernoulli_log_prob.works, device, 50, 2048),
        "linear_bernoulli_log_prob B=1024": partial(linear_bernoulli_log_prob.gpu_works, device, 50, 1024),
        "linear_activation": partial(linear_activation.gpu_works, device),
        "gaussian_iwae_loss B=1024": partial(gaussian_iwae_loss.works, device, 50, 1024),
        "gaussian_log_prob": partial(gaussian_log_prob.works, device, 50, 2048),
        "bernoulli_log_prob bfloat16": partial(bernoulli_log_prob.works, device, 50, 2048, dtype=torch.bfloat16),
        "standard_gaussian_log_prob": partial(standard_gaussian_log_prob.works, device, 50, 2048),
        "log_mean_exp": partial(log_mean_exp.works, device, 50, 2**20),
        "log_mean_exp, few columns": partial(log_mean_exp.works, device, 5000, 20),
        "sample_gaussian": partial(sample_gaussian.works, device, 50, 1024),
        "bernoulli_iwae_loss B=20": partial(bernoulli_iwae_loss.works, device, 50, 20),
        "linear_bernoulli_iwae_loss B=1024": partial(linear_bernoulli_iwae_loss.works, device, 50, 1024),
        f"step {paper}": partial(training_step.gpu_works, paper, launched=True),
        **{f"step {setting}": partial(training_step.gpu_works, setting) for setting in steps},
        f"steps of {many_models.MODELS} models": partial(many_models.works, paper),
        "evaluation k=5000": partial(evaluation.test_set_works, replace(paper, k=5000, batch=10_000)),
    }


BURDA_STEPS = passes(STAGES) * (60_000 // 20)
"""The number of training steps of Burda, Grosse & Salakhutdinov (2016) on MNIST, in batches of 20."""

LOSS = ("bernoulli_iwae_loss", "forward+backward", "k=50 B=1024")
STEP = ("step", "training", str(Setting(50)))
LINEAR = "linear_bernoulli_log_prob"

GPU_TARGETS = (
    *(
        Target(f"{op}, {mode}: 85 % of the copy's bandwidth", copy_bandwidth(0.85), op, mode, shape)
        for op, mode, shape in (
            LOSS,
            ("gaussian_iwae_loss", "forward+backward", "k=50 B=1024"),
            *(
                (op, mode, "")
                for op in ("bernoulli_log_prob", "gaussian_log_prob", "standard_gaussian_log_prob", "log_mean_exp")
                for mode in ("forward", "backward")
            ),
        )
    ),
    Target("loss: 4 times as fast as torch eager", times(4.0), *LOSS),
    Target("loss: as fast as torch.compile", times(1.0, "torch.compile"), *LOSS),
    Target("loss: CUDA as fast as Triton", times(1.0, "iwae_fast triton"), *LOSS, providers="iwae_fast cuda"),
    *(
        Target(f"{name}: {what}", judge, *work, suffix=suffix)
        for name, work, suffix in (("step", STEP, "captured"), ("step of a run", (training.OP, "training"), ""))
        for what, judge in (
            ("8 times as fast as torch eager", times(8.0, op="step", shape=STEP[2])),
            ("as fast as torch.compile captured whole", times(1.0, training_step.WHOLE, op="step", shape=STEP[2])),
            ("at most 120 us", at_most(120e-6)),
        )
    ),
    *(
        Target(
            f"linear layer and density, {mode}: {what} with {backend}",
            times(factor, f"{linear_bernoulli_log_prob.UNFUSED} {backend}"),
            LINEAR,
            mode,
            metric=metric,
            providers=f"iwae_fast {backend}",
        )
        for what, factor, metric in (
            ("as fast as cuBLAS and the density", 1.0, "seconds"),
            ("a tenth of the memory", 10.0, "peak bytes"),
        )
        for mode in ("forward", "forward+backward")
        for backend in ("cuda", "triton")
    ),
    *(
        Target(
            f"{many_models.MODELS} models side by side: a third of the time in a row, {backend}",
            times(3.0, f"iwae_fast {backend} {many_models.IN_A_ROW}"),
            op,
            "training",
            providers=f"iwae_fast {backend}",
            suffix=many_models.SIDE_BY_SIDE,
        )
        for op in (many_models.OP, training.MANY)
        for backend in ("cuda", "triton")
    ),
    *(
        Target(
            f"convolutional step, compile=True, k = {k}: faster than torch.compile captured whole",
            times(1.0, training_step.WHOLE),
            "step",
            "training",
            str(Convolutional(k)),
            suffix="compile=True",
        )
        for k in (50, 1)
    ),
    Target("log p(x) of 10,000 images, k = 5000: at most 1 s", at_most(1.0), "evaluation", "forward", "k=5000 B=10000"),
    Target(
        f"the paper's schedule at k = 50 ({BURDA_STEPS / 1e6:.2f} million steps): at most 20 minutes",
        at_most(1200.0, BURDA_STEPS),
        training.OP,
        "training",
    ),
)
"""The targets of the workloads of :func:`gpu`, for all providers of this package unless stated otherwise."""
