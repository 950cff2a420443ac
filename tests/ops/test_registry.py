"""Tests of the registration with torch.library: every op passes opcheck on real arguments, and none is missing."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from devices import BACKENDS, device_of, place

from iwae_fast.backends import NATIVE
from iwae_fast.ops import function, registry
from iwae_fast.reference import DENSITIES

OPTIONAL = frozenset[str]().union(*(backend.optional_ops for backend in NATIVE.values()))


def samples() -> dict[str, list[tuple]]:
    def r(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
        return torch.randn(*shape, dtype=dtype)

    mask = torch.rand(7) > 0.5
    value, logits, mean, log_std = r(4, 7), r(3, 4, 7), r(3, 4, 7), r(7)
    strided, half = r(7, 4).T, r(3, 4, 7).bfloat16()
    log_ratio, weights = r(3, 4), r(3, 4).softmax(0)
    scalar, seed, chosen = r(()).expand(3, 4), torch.tensor(3), torch.randint(2**32, (4, 5)).T
    return {
        "gaussian_log_prob": [(value, mean, log_std, None), (strided, half, log_std, mask)],
        "gaussian_log_prob_backward": [
            (scalar, value, mean, log_std, None, [True, True, True]),
            (log_ratio, strided, half, log_std, mask, [False, True, False]),
        ],
        "standard_gaussian_log_prob": [(mean, None), (strided, mask)],
        "standard_gaussian_log_prob_backward": [(log_ratio, mean, mask, [True])],
        "bernoulli_log_prob": [(value, logits, None), (strided, half, mask)],
        "bernoulli_log_prob_backward": [(scalar, value, logits, mask, [False, True])],
        "linear_bernoulli_log_prob": [
            (value, r(3, 4, 5), r(7, 5), r(7), mask),
            (strided, r(4, 5), r(5, 7).T, None, None),
        ],
        "linear_bernoulli_log_prob_backward": [
            (scalar, value, r(3, 4, 5), r(7, 5), r(7), mask, [True, True, True, True]),
            (r(4), value, r(4, 5), r(7, 5), None, None, [False, True, True, False]),
        ],
        "linear_bernoulli_log_prob_and_residual": [
            (value, r(3, 4, 5), r(7, 5), r(7), mask),
            (strided, r(4, 5), r(5, 7).T, None, None),
        ],
        "linear_tanh": [(r(3, 4, 5), r(7, 5), r(7)), (r(5, 4).T, r(5, 7).T, None)],
        "linear_tanh_backward": [
            (r(3, 4, 7), r(3, 4, 7), r(3, 4, 5), r(7, 5), [True, True, True]),
            (r(7, 4).T, r(4, 7), r(4, 5), r(7, 5), [False, True, False]),
        ],
        "log_mean_exp": [(log_ratio, 0), (log_ratio, 1), (log_ratio.double().T, 0)],
        "log_mean_exp_backward": [(r(4), log_ratio, 0), (r(3), log_ratio, 1)],
        "bernoulli_iwae_loss": [(value, logits, log_ratio, mask, "mean"), (strided, half, log_ratio, None, "none")],
        "bernoulli_iwae_loss_backward": [(r(4), weights, value, logits, mask, "none", [True, True])],
        "bernoulli_iwae_loss_and_gradients": [(value, logits, log_ratio, mask, "mean", [False, True])],
        "gaussian_iwae_loss_and_gradients": [(value, mean, mean, log_ratio, None, "none", [False, True, True])],
        "linear_bernoulli_iwae_loss": [
            (value, r(3, 4, 5), r(7, 5), r(7), log_ratio, mask, "mean"),
            (strided, r(3, 4, 5), r(5, 7).T, None, log_ratio, None, "none"),
        ],
        "gaussian_iwae_loss": [(value, mean, log_std, log_ratio, None, "sum")],
        "gaussian_iwae_loss_backward": [(r(()), weights, value, mean, log_std, None, "mean", [False, True, True])],
        "standard_normal": [
            (seed, None, [2, 4, 5], 1, 0, 0, torch.float64),
            (seed, chosen, [5, 4, 7], 0, 1, 2, torch.float32),
        ],
        "sample_gaussian": [
            (value, value.half(), seed, None, 5, 1, 0, 2),
            (strided, value, seed, None, 1, 0, 0, 0),
            (value, strided, seed, chosen, 5, 0, 1, 2),
        ],
        "sample_gaussian_backward": [
            (r(5, 4, 7), log_ratio[:1].expand(5, 4), value, strided, seed, None, 5, 1, 0, 2, False),
            (None, r(5, 4), value, value.half(), seed, None, 5, 1, 0, 2, True),
            (r(5, 7, 4).mT, None, value, value, seed, None, 5, 1, 0, 2, True),
            (r(5, 4, 7), r(5, 4), value, value, seed, chosen, 5, 0, 1, 2, False),
        ],
    }


def skip_what_is_not_offered(name: str, backend: str) -> None:
    op = name.removesuffix("_backward")
    for density in DENSITIES:
        op = op.removeprefix(f"{density}_") if op.endswith("_and_gradients") else op
    if op in OPTIONAL and not function.supports(op, backend):
        pytest.skip(f"{backend} does without {name}")


def eager(name: str, backend: str, arguments: tuple[Any, ...]) -> Any:
    """Call the backend's method for an op, without the dispatcher."""
    for density in sorted(DENSITIES, key=len, reverse=True):
        kind = name.removeprefix(f"{density}_")
        if kind == name or not kind.startswith(("log_prob", "iwae_loss")):
            continue
        first = {"log_prob_backward": 1, "iwae_loss_backward": 2}.get(kind, 0)
        count = len(inspect.signature(DENSITIES[density]).parameters) - 1
        parameters, rest = arguments[first : first + count], arguments[first + count :]
        method = getattr(NATIVE[backend], kind.replace("log_prob", "density"))
        return method(density, *arguments[:first], parameters, *rest)
    return getattr(NATIVE[backend], name)(*arguments)


def on_device(arguments: tuple, backend: str) -> tuple[Any, ...]:
    return (*(place(a, device_of(backend)) for a in arguments), backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", sorted(samples()))
def test_opcheck(name: str, backend: str) -> None:
    skip_what_is_not_offered(name, backend)
    # Schemas, fakes and tracing are the same for every backend: the others need only agree with the fakes.
    asked = {} if backend == BACKENDS[0].values[0] else {"test_utils": ("test_schema", "test_faketensor")}
    for arguments in samples()[name]:
        torch.library.opcheck(getattr(torch.ops.iwae_fast, name).default, on_device(arguments, backend), **asked)


def test_every_op_is_checked() -> None:
    registered = {name.split("::")[1].split(".")[0] for name in registry.LIBRARY._op_defs}
    assert registered == set(samples())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", sorted(samples()))
def test_registered_op_is_the_backends_function(name: str, backend: str) -> None:
    skip_what_is_not_offered(name, backend)
    for arguments in samples()[name]:
        *rest, _ = on_device(arguments, backend)
        direct = eager(name, backend, tuple(rest))
        registered = getattr(torch.ops.iwae_fast, name)(*rest, backend)
        torch.testing.assert_close(registered, direct, rtol=0, atol=0, check_stride=True)
