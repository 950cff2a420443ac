"""A training step of the papers' network, by all providers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from . import agreement, ours
from .networks import Convolutional, Setting
from .ops import backends
from .precision import TF32
from .rivals import captured, distributions, eager, pyro, pythae
from .step import Step, prepare, truth
from .work import BASELINE, COMPILED, Check, Provider, Role, Task, Work

WHOLE = f"{COMPILED} captured"
"""The name of the provider that uses torch.compile and captures the whole step in one CUDA graph."""


def works(setting: Setting) -> list[Work]:
    return [Work("step", "training", str(setting), providers(setting), k=setting.k)]


def gpu_works(setting: Setting, launched: bool = False) -> list[Work]:
    """Return the GPU workloads: steps in CUDA graphs, with the backends of the setting's device, in float32 and TF32.

    ``launched`` adds steps whose kernels are launched one by one, and our captured steps with other gradient estimates.
    Convolutional networks also have our captured steps with networks by torch.compile.
    """
    return [
        Work(
            *("step", "training", str(setting), tuple(gpu_providers(setting, dtype, launched)), setting.k),
            dtype=dtype,
            device=setting.device,
            whole=True,
        )
        for dtype in ("float32", TF32)
    ]


def gpu_providers(setting: Setting, dtype: str, launched: bool) -> list[Provider]:
    rounding = agreement.TF32_ROUNDOFF if dtype == TF32 else 0.0
    check = Check(partial(truth, setting), partial(agreement.differing_means, rounding=rounding))

    def provider(name: str, make: Callable[[Setting], Step], role: Role = "rival", package: str = "torch") -> Provider:
        return Provider(name, partial(prepare, make, setting), check, role, package)

    everybody = [
        provider(f"{BASELINE} captured", partial(captured.step, compiled=False)),
        provider(WHOLE, partial(captured.step, compiled=True)),
    ]
    if launched:
        everybody.append(provider(BASELINE, eager.step))
    for name in backends(setting.device):
        make = partial(ours.captured, backend=name)
        everybody.append(provider(f"iwae_fast {name} captured", make, "ours", "iwae_fast"))
        if isinstance(setting, Convolutional):
            label = f"iwae_fast {name} captured, compile=True"
            compiled = partial(make, compile=True)
            everybody.append(provider(label, compiled, "ours", "iwae_fast"))
            if setting.k > ours.BUDGET:
                fewer = partial(compiled, budget=ours.BUDGET)
                everybody.append(provider(f"{label}, budget={ours.BUDGET}", fewer, "estimate", "iwae_fast"))
        if launched:
            dreg = partial(ours.captured, backend=name, estimator="dreg")
            everybody.append(provider(f"iwae_fast {name} captured, dreg", dreg, "estimate", "iwae_fast"))
            if setting.k > ours.BUDGET:
                budget = partial(ours.captured, backend=name, budget=ours.BUDGET)
                label = f"iwae_fast {name} captured, budget={ours.BUDGET}"
                everybody.append(provider(label, budget, "estimate", "iwae_fast"))
            everybody.append(provider(f"iwae_fast {name}", partial(ours.by_backend, backend=name), "ours", "iwae_fast"))
    return everybody


def providers(setting: Setting) -> tuple[Provider, ...]:
    check = Check(partial(truth, setting), agreement.differing_means)

    def prepared(make: Callable[[Setting], Step]) -> partial[Task]:
        return partial(prepare, make, setting)

    everybody = (
        Provider(BASELINE, prepared(eager.step), check),
        Provider("torch.compile", prepared(eager.compiled_step), check),
        Provider("torch.distributions", prepared(distributions.step), check),
        Provider("pyro", prepared(pyro.step), check, package="pyro-ppl"),
        Provider("pyro SVI", prepared(pyro.svi_step), check, package="pyro-ppl"),
        Provider("pythae", prepared(pythae.step), check, package="pythae"),
        Provider("iwae_fast exact", prepared(ours.exact), check, "ours", "iwae_fast"),
    )
    if setting.k <= ours.BUDGET:  # the budget is all samples
        return everybody
    return (
        *everybody,
        Provider("iwae_fast tolerance=1e-7", prepared(ours.to_tolerance), check, "ours", "iwae_fast"),
        Provider(f"iwae_fast budget={ours.BUDGET}", prepared(ours.within_budget), check, "estimate", "iwae_fast"),
    )
