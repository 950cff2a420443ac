"""Tests of several linear layers of one input in one op."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import tolerances
import torch
from contract import Contract, gradients
from devices import device_of, run
from torch import Tensor

from iwae_fast.backends import NATIVE
from iwae_fast.models import dense
from iwae_fast.ops.function import supports
from iwae_fast.ops.layers import linear_heads

OFFERED = [name for name in NATIVE if supports("linear_heads", name) and NATIVE[name].unavailable() is None]


def together(hidden: Tensor, *layers: Tensor, backend: str | None = None) -> Tensor:
    """Return the results of all layers beside each other."""
    count = len(layers) // 2
    return torch.cat(linear_heads(hidden, layers[:count], layers[count:], backend=backend), -1)


def layers(width: int, *columns: int, dtype: torch.dtype = torch.float64) -> list[Tensor]:
    weights = [torch.randn(size, width, dtype=dtype) for size in columns]
    return [*weights, *(torch.randn(size, dtype=dtype) for size in columns)]


class TestLinearHeads(Contract):
    names = ("hidden", "weight", "weight", "bias", "bias")

    @staticmethod
    def call(*inputs: Tensor, backend: str | None = None) -> Tensor:
        return run(together, *inputs, backend=backend)

    @staticmethod
    def example() -> list[Tensor]:
        return [torch.randn(3, 4, 5).double(), *layers(5, 6, 3)]

    @pytest.fixture(autouse=True)
    def offered(self, request: pytest.FixtureRequest) -> None:
        callspec = getattr(request.node, "callspec", None)
        backend = callspec.params.get("backend") if callspec else None
        if backend in NATIVE and not supports("linear_heads", backend):
            pytest.skip(f"{backend} leaves it to single layers")

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast(self, dtype: torch.dtype) -> None:
        inputs = self.leaves(torch.float32)
        with torch.autocast("cpu", dtype=dtype):
            ours = self.call(*inputs)
        count = len(inputs) // 2
        hidden, *rest = (t.to(dtype) for t in inputs)
        expected = [
            torch.nn.functional.linear(hidden, *layer) for layer in zip(rest[:count], rest[count:], strict=True)
        ]
        assert ours.dtype == dtype
        assert torch.equal(ours, torch.cat(expected, -1))


@pytest.mark.parametrize("backend", OFFERED)
@pytest.mark.parametrize(
    ("rows", "width", "columns", "dtype"),
    [
        (20, 70, (50, 50), torch.float32),
        (20, 33, (7, 70, 1), torch.float32),
        (600, 9, (5, 66), torch.float32),  # sums over rows in splits
        (70, 9, (5, 66), torch.float64),
        (20, 70, (50, 50), torch.bfloat16),
        (20, 70, (3, 50), torch.float16),
        (1, 1, (1, 1), torch.float32),
        (0, 3, (4, 4), torch.float32),
        (4, 0, (3, 3), torch.float32),
        (4, 3, (0, 2), torch.float32),
    ],
)
@pytest.mark.parametrize("with_bias", [True, False])
def test_against_single_layers(
    backend: str, rows: int, width: int, columns: tuple[int, ...], dtype: torch.dtype, with_bias: bool
) -> None:
    """Compare with the reference in float64."""
    inputs = [torch.randn(rows, width).to(dtype), *layers(width, *columns, dtype=dtype)]
    if not with_bias:
        inputs = inputs[: 1 + len(columns)]

    def call(name: str) -> Callable[..., Tensor]:
        count = len(columns)
        return lambda hidden, *rest: torch.cat(linear_heads(hidden, rest[:count], rest[count:], backend=name), -1)

    moved = [t.to(device_of(backend)) for t in inputs]
    ours, our_grads = gradients(call(backend), moved, 1)
    incoming = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    leaves = [t.double().requires_grad_() for t in inputs]
    exact = call("reference")(*leaves)
    exact_grads = torch.autograd.grad(exact, leaves, incoming.double())
    for our, exa in zip([ours, *our_grads], [exact.detach(), *exact_grads], strict=True):
        assert our.dtype == dtype
        largest = float(exa.abs().amax()) if exa.numel() else 0.0
        allowed = 32 * tolerances.ROUNDING[dtype] * (1.0 + largest)
        torch.testing.assert_close(our.cpu().double(), exa, rtol=0.0, atol=allowed)


@pytest.mark.parametrize("backend", OFFERED)
def test_strides_and_one_gradient_alone(backend: str) -> None:
    hidden, *rest = (t.to(device_of(backend)) for t in (torch.randn(9, 8).double().T, *layers(9, 5, 6)))
    rest[1] = rest[1].T.contiguous().T
    every, (first, *_) = (
        gradients(lambda *t, name=name: together(*t, backend=name), [hidden, *rest], 1)[1]
        for name in (backend, "reference")
    )
    torch.testing.assert_close(every[0], first)
    weight = rest[1].requires_grad_()
    mean, log_std = linear_heads(hidden, [rest[0], weight], rest[2:], backend=backend)
    (alone,) = torch.autograd.grad(log_std.sum(), weight)
    assert not mean.requires_grad or mean.grad_fn is log_std.grad_fn
    torch.testing.assert_close(alone, hidden.sum(0).expand_as(alone))


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([], "at least one weight"),
        ([(7, 5), (7, 4)], r"hidden \(3, 5\) and weight \(7, 4\)"),
    ],
)
def test_bad_arguments(shapes: list[tuple[int, int]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        linear_heads(torch.rand(3, 5), [torch.rand(shape) for shape in shapes], [])
    with pytest.raises(ValueError, match="as many biases or none, got 2, 1"):
        linear_heads(torch.rand(3, 5), [torch.rand(7, 5)] * 2, [torch.rand(7)])


@pytest.mark.parametrize("backend", OFFERED)
def test_layers_with_hooks_or_parametrizations_are_called(backend: str) -> None:
    """Test that layers which do more than their product are not fused."""
    network, called = dense.GaussianNetwork(6, (4,), 3), []
    for layer in (network.mean, network.log_std):
        layer.backend = backend
    network.to(device_of(backend))
    x = torch.randn(5, 6, device=device_of(backend))
    plain = network(x)
    assert plain[0].grad_fn is plain[1].grad_fn
    network.mean.register_forward_hook(lambda *_: called.append("hook"))
    torch.testing.assert_close(network(x), plain)
    assert called == ["hook"]
    other = dense.GaussianNetwork(6, (4,), 3).to(device_of(backend))
    other.mean.backend = other.log_std.backend = backend
    torch.nn.utils.parametrizations.weight_norm(other.log_std)
    assert len(other(x)) == 2
