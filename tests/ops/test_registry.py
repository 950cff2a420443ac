"""Tests of the registration with torch.library: every op passes opcheck on real arguments, and none is missing."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from density_ops import PARAMETERS
from devices import BACKENDS, device_of, place
from torch.utils._pytree import tree_leaves

from iwae_fast.backends import NATIVE
from iwae_fast.ops import function, registry

OPTIONAL = frozenset[str]().union(*(backend.optional_ops for backend in NATIVE.values()))


def r(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype)


def density_samples(name: str) -> dict[str, list[tuple]]:
    """Return arguments of the ops of a density: (3, 4, 7), with observations (4, 7) and a parameter per feature."""
    mask, log_ratio, weights = torch.rand(7) > 0.5, r(3, 4), r(3, 4).softmax(0)
    count = len(PARAMETERS[name])
    plain = [r(4, 7), r(3, 4, 7), *(r(7) for _ in range(count - 2))] if count > 1 else [r(3, 4, 7)]
    mixed = [r(7, 4).T, r(3, 4, 7).bfloat16(), *plain[2:]] if count > 1 else [r(4, 7, 3).permute(2, 0, 1)]
    whole = [plain[0], *(r(3, 4, 7) for _ in plain[1:])]
    every, second = [True] * count, [count == 1, *(index == 1 for index in range(1, count))]
    ops: dict[str, list[tuple]] = {
        "log_prob": [(*plain, None), (*mixed, mask)],
        "log_prob_backward": [
            (r(()).expand(3, 4), *plain, None, every),
            (log_ratio, *mixed, mask, second),
        ],
    }
    if count > 1:
        ops |= {
            "iwae_loss": [(*plain, log_ratio, mask, "mean"), (*mixed, log_ratio, None, "none")],
            "iwae_loss_backward": [
                (r(4), weights, *plain, mask, "none", every),
                (r(()), weights, *mixed, None, "mean", second),
            ],
            "iwae_loss_and_gradients": [
                (*whole, log_ratio, mask, "mean", [False, *every[1:]]),
                (*whole, log_ratio, None, "none", [False, *every[1:]]),
            ],
        }
    return {f"{name}_{kind}": arguments for kind, arguments in ops.items()}


def adam_sample(clipped: bool = False) -> tuple[Any, ...]:
    """Return arguments of a step for two parameters, with a rate as a number or as a tensor."""
    four = [[r(3, 4), r(2050)] for _ in range(4)]
    four[3] = [tensor.abs() for tensor in four[3]]
    rate, squares = (torch.tensor(0.1), torch.tensor([3.0, 4.0], dtype=torch.float64)) if clipped else (None, None)
    numbers = (0.1, 0.9, 0.999, 1e-8, 0.1, clipped, not clipped, clipped, 1.0 if clipped else None)
    steps = [torch.tensor(3.0), torch.tensor(0.0)]
    return (*four, steps, rate, *numbers, None, None, squares, torch.zeros((), dtype=torch.int32))


def samples() -> dict[str, list[tuple]]:
    mask = torch.rand(7) > 0.5
    value, strided, log_ratio = r(4, 7), r(7, 4).T, r(3, 4)
    scalar, seed, chosen = r(()).expand(3, 4), torch.tensor(3), torch.randint(2**32, (4, 5)).T
    return {
        "adam": [adam_sample(), adam_sample(clipped=True)],
        "sum_squares": [([r(3, 4), r(2050)],)],
        **{op: arguments for name in PARAMETERS for op, arguments in density_samples(name).items()},
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
        "linear_activation": [
            (r(3, 4, 5), r(7, 5), r(7), "tanh", False),
            (r(5, 4).T, r(5, 7).T, None, "tanh", False),
        ],
        "linear_activation_backward": [
            (r(3, 4, 7), r(3, 4, 7), r(3, 4, 5), r(7, 5), "tanh", [True, True, True], None, None),
            (r(7, 4).T, r(4, 7), r(4, 5), r(7, 5), "tanh", [False, True, False], None, None),
        ],
        "linear_heads": [(r(3, 4, 5), [r(7, 5), r(2, 5)], [r(7), r(2)]), (r(5, 4).T, [r(5, 7).T, r(3, 5)], [])],
        "linear_heads_backward": [
            ([r(3, 4, 7), r(3, 4, 2)], r(3, 4, 5), [r(7, 5), r(2, 5)], [True] * 5),
            ([r(7, 4).T, r(4, 3)], r(5, 4).T, [r(7, 5), r(3, 5)], [False, True, False]),
        ],
        "log_mean_exp": [(log_ratio, 0), (log_ratio, 1), (log_ratio.double().T, 0)],
        "log_mean_exp_backward": [(r(4), log_ratio, 0), (r(3), log_ratio, 1)],
        "weight_scales": [
            ([log_ratio, log_ratio + 1.0], 0.5, 0.7, 1, 0.3, 0.7, 1e-3, "mean"),
            ([r(6, 4, 5).half().mT], 1.0, 1.0, 3, 1.0, 0.0, 0.0, "none"),
        ],
        "scaled_gradients": [
            ([log_ratio, log_ratio + 1.0], torch.randn(()), [1.0, 0.5]),
            ([r(3, 4, 5).double()], r(4, 5).double().mT.contiguous().mT, [2.0]),
        ],
        "select_samples": [
            (r(5, 4), r(5, 4), seed, 3, 1, 2**31, 1e-3),
            (r(4, 5).double().T, r(5, 4).double(), seed, 1, 0, 0, 0.0),
        ],
        "linear_bernoulli_iwae_loss": [
            (value, r(3, 4, 5), r(7, 5), r(7), log_ratio, mask, "mean"),
            (strided, r(3, 4, 5), r(5, 7).T, None, log_ratio, None, "none"),
        ],
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
    for density in PARAMETERS:
        op = op.removeprefix(f"{density}_") if op.endswith("_and_gradients") else op
    if op in OPTIONAL and not function.supports(op, backend):
        pytest.skip(f"{backend} does without {name}")


def eager(name: str, backend: str, arguments: tuple[Any, ...]) -> Any:
    """Call the backend's method for an op, without the dispatcher."""
    for density in sorted(PARAMETERS, key=len, reverse=True):
        kind = name.removeprefix(f"{density}_")
        if kind == name or not kind.startswith(("log_prob", "iwae_loss")):
            continue
        first = {"log_prob_backward": 1, "iwae_loss_backward": 2}.get(kind, 0)
        count = len(PARAMETERS[density])
        parameters, rest = arguments[first : first + count], arguments[first + count :]
        method = getattr(NATIVE[backend], kind.replace("log_prob", "density"))
        return method(density, *arguments[:first], parameters, *rest)
    if name in ("adam", "weight_scales"):
        return getattr(registry, name)(NATIVE[backend], *arguments)
    return getattr(NATIVE[backend], name)(*arguments)


def on_device(arguments: tuple, backend: str) -> tuple[Any, ...]:
    """Return copies of the arguments, which some ops change, on the backend's device."""
    device = device_of(backend)

    def own(argument: Any) -> Any:
        if isinstance(argument, list):
            return [own(each) for each in argument]
        return place(copy.deepcopy(argument), device)

    return (*map(own, arguments), backend)


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


def tensors_of(arguments: list[Any]) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(arguments) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name", sorted(samples()))
def test_registered_op_is_the_backends_function(name: str, backend: str) -> None:
    skip_what_is_not_offered(name, backend)
    for arguments in samples()[name]:
        *rest, _ = on_device(arguments, backend)
        *again, _ = on_device(arguments, backend)
        direct = eager(name, backend, tuple(rest))
        registered = getattr(torch.ops.iwae_fast, name)(*again, backend)
        torch.testing.assert_close(registered, direct, rtol=0, atol=0, check_stride=True)
        torch.testing.assert_close(tensors_of(again), tensors_of(rest), rtol=0, atol=0)  # an op may change them
