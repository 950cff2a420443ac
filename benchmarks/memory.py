"""Peak bytes of live tensors, of a training step (excluding parameters and Adam's state) and of an evaluation."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from . import agreement, evaluation, ours
from .networks import Setting, networks, observations
from .rivals import eager
from .step import Step, prepare, truth
from .work import BASELINE, Check, Provider, Task, Work


def step_works(setting: Setting) -> list[Work]:
    check = Check(partial(truth, setting), agreement.differing_means)

    def prepared(make: Callable[[Setting], Step]) -> partial[Task]:
        return partial(prepare, make, setting)

    providers = (
        Provider(BASELINE, prepared(eager.step), check),
        Provider("iwae_fast exact", prepared(ours.exact), check, "ours", "iwae_fast"),
        Provider(f"iwae_fast chunks of {ours.CHUNK}", prepared(ours.in_chunks), check, "ours", "iwae_fast"),
        Provider(f"iwae_fast budget={ours.BUDGET}", prepared(ours.within_budget), check, "estimate", "iwae_fast"),
    )
    return [Work("step", "training", str(setting), providers, k=setting.k, metric="peak bytes")]


def evaluation_works(setting: Setting) -> list[Work]:
    check = Check(partial(evaluation.truth, setting), agreement.differing_means)
    providers = (
        Provider(BASELINE, partial(at_once, setting), check),
        Provider("torch eager, in chunks", partial(evaluation.eager, setting), check),
        Provider("iwae_fast", partial(evaluation.ours, setting), check, "ours", "iwae_fast"),
    )
    return [Work("evaluation", "forward", str(setting), providers, k=setting.k, metric="peak bytes")]


def at_once(setting: Setting) -> Task:
    """Prepare an evaluation of all samples in one pass, as in training."""
    encoder, decoder, _ = networks(setting)
    run = partial(evaluation.log_likelihood, encoder, decoder, observations(setting), setting.k, setting.k)
    return Task(run, partial(evaluation.means, run))
