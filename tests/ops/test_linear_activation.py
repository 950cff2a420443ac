"""Tests of a dense layer with an activation in one op."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import tolerances
import torch
import torch.nn.functional as F
from contract import Contract, gradients, upstream_gradient
from devices import BACKENDS, device_of, run
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck

import iwae_fast as iw
from iwae_fast.backends import BEST, NATIVE, REFERENCE
from iwae_fast.models import dense
from iwae_fast.ops.function import supports
from iwae_fast.reference.activations import ACTIVATIONS


def layer_allowances(inputs: list[Tensor], output: Tensor, incoming: Tensor) -> list[Tensor]:
    """Return what the output of a layer with tanh, and its gradients, may be wrong by in float32: the roundings of the
    terms of each sum, and what they make of the output's error.

    Args:
        inputs: hidden ``(rows, width)``, weight ``(columns, width)`` and perhaps bias ``(columns,)``, in float64.
        output: the exact output ``(rows, columns)``.
        incoming: the upstream gradient ``(rows, columns)``.
    """
    hidden, weight, *bias = inputs
    rounding = tolerances.ROUNDINGS_A_TERM * tolerances.ROUNDING[torch.float32]

    def of_product(left: Tensor, right: Tensor, error_of_left: Tensor | float = 0.0) -> Tensor:
        """Return the allowance of ``left @ right`` whose left factor has this error."""
        return (rounding * left.abs() + error_of_left) @ right.abs() + tolerances.ROUNDING[torch.float32]

    # The derivative of tanh is at most 1.
    allowed = of_product(hidden, weight.T) + rounding * (output.abs() + sum(b.abs() for b in bias))
    delta = incoming * (1.0 - output**2)
    # 1 - tanh^2 is a difference of numbers of size 1, with twice the error of the output.
    error_of_delta = incoming.abs() * (2.0 * output.abs() * allowed + rounding)
    grads = [of_product(delta, weight, error_of_delta), of_product(delta.T, hidden, error_of_delta.T)]
    if bias:
        grads.append(of_product(delta.T, torch.ones_like(hidden[:, :1]), error_of_delta.T).squeeze(1))
    return [allowed, *grads]


class TestLinearActivation(Contract):
    names = ("hidden", "weight", "bias")

    @staticmethod
    def call(*inputs: Tensor, backend: str | None = None) -> Tensor:
        return run(iw.linear_activation, *inputs, backend=backend)

    @staticmethod
    def example() -> list[Tensor]:
        return [t.double() for t in (torch.randn(3, 4, 5), torch.randn(11, 5), torch.randn(11))]

    @pytest.fixture(autouse=True)
    def offered(self, request: pytest.FixtureRequest) -> None:
        callspec = getattr(request.node, "callspec", None)
        backend = callspec.params.get("backend") if callspec else None
        if backend in NATIVE and not supports("linear_activation", backend):
            pytest.skip(f"{backend} leaves it to torch")

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast(self, dtype: torch.dtype) -> None:
        """Compare with a linear layer and tanh."""
        hidden, weight, bias = self.leaves(torch.float32)
        with torch.autocast("cpu", dtype=dtype):
            ours, expected = self.call(hidden, weight, bias), torch.tanh(F.linear(hidden, weight, bias))
        assert ours.dtype == expected.dtype == dtype
        assert torch.equal(ours, expected)

    @pytest.mark.parametrize("backend", BACKENDS)
    @given(rows=st.integers(0, 70), columns=st.integers(0, 70), seed=st.integers(0, 99), with_bias=st.booleans())
    def test_no_worse_than_torch(self, backend: str, rows: int, columns: int, seed: int, with_bias: bool) -> None:
        torch.manual_seed(seed)
        inputs = [torch.randn(rows, 6), 2 * torch.randn(columns, 6), torch.randn(columns)][: 2 + with_bias]
        incoming = upstream_gradient((rows, columns), 1).double()
        exact, exact_grads = gradients(lambda *t: self.call(*t, backend="reference"), [t.double() for t in inputs], 1)
        eager, eager_grads = gradients(lambda *t: self.call(*t, backend="reference"), inputs, 1)
        ours, our_grads = gradients(lambda *t: self.call(*t, backend=backend), inputs, 1)
        allowance, *grad_allowances = layer_allowances([t.double() for t in inputs], exact, incoming)
        tolerances.assert_no_worse(ours, eager, exact, allowance)
        for our, eag, exa, allowed in zip(our_grads, eager_grads, exact_grads, grad_allowances, strict=True):
            tolerances.assert_no_worse(our, eag, exa, allowed)

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_tanh_itself(self, backend: str, dtype: torch.dtype) -> None:
        """Bound the error relative to the result, also near 0."""
        x = torch.cat([torch.linspace(-30, 30, 3001), torch.logspace(-30, 2, 1000), -torch.logspace(-30, 2, 1000)])
        x = torch.cat([x, torch.tensor([0.0, torch.inf, -torch.inf])]).to(dtype)
        ours = self.call(x[:, None], torch.ones(1, 1, dtype=dtype), None, backend=backend).squeeze(1)
        exact = torch.tanh(x.double())
        assert ((ours.double() - exact).abs() <= 8 * tolerances.ROUNDING[dtype] * exact.abs()).all()
        assert self.call(torch.full((1, 1), torch.nan), torch.ones(1, 1), None, backend=backend).isnan().all()

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_strides(self, backend: str) -> None:
        hidden, weight, bias = (t.double() for t in (torch.randn(5, 7).T, torch.randn(5, 9).T, torch.randn(18)[::2]))
        inputs = [hidden, weight, bias]
        ours, our_grads = gradients(lambda *t: self.call(*t, backend=backend), inputs, 1)
        exact, exact_grads = gradients(lambda *t: self.call(*t, backend="reference"), inputs, 1)
        torch.testing.assert_close(ours, exact)
        torch.testing.assert_close(our_grads, exact_grads)


TRITON = pytest.mark.skipif(NATIVE["triton"].unavailable() is not None, reason="Triton cannot run here")


def layer(rows: int, width: int, columns: int, dtype: torch.dtype) -> list[Tensor]:
    """Return hidden, weight and bias of a layer."""
    weight = torch.randn(columns, width, dtype=dtype) / max(width, 1) ** 0.5
    return [torch.randn(rows, width, dtype=dtype), weight, torch.randn(columns, dtype=dtype)]


def assert_near(ours: Tensor, exact: Tensor, dtype: torch.dtype) -> None:
    """Assert an error of at most some roundings of the largest entry."""
    assert ours.dtype == dtype
    largest = float(exact.abs().amax()) if exact.numel() else 0.0
    torch.testing.assert_close(ours.double(), exact, rtol=0.0, atol=32 * tolerances.ROUNDING[dtype] * (1.0 + largest))


@TRITON
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize(
    ("shape", "dtype"),
    [
        ((20, 77, 50), torch.float32),  # one tile, whose sums are divided into parts
        ((600, 130, 3), torch.float32),  # sums over rows in splits
        ((300, 65, 70), torch.float64),
        ((1, 3, 5), torch.float32),
        ((20, 50, 77), torch.bfloat16),
        ((300, 50, 77), torch.float16),
        ((0, 3, 4), torch.float32),
        ((4, 0, 3), torch.float32),
        ((4, 3, 0), torch.float32),
        ((300, 0, 3), torch.float32),
    ],
    ids=str,
)
def test_every_activation_on_triton(activation: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """Compare results and gradients with the reference in float64, also of empty layers."""
    inputs = layer(*shape, dtype)

    def call(backend: str) -> Callable[..., Tensor]:
        return lambda *t: run(iw.linear_activation, *t, activation, backend=backend)

    ours, our_grads = gradients(call("triton"), inputs, 1)
    # The upstream gradient is rounded to the dtype of the layer before it is multiplied.
    incoming = torch.randn(ours.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    leaves = [t.double().requires_grad_() for t in inputs]
    exact = call("reference")(*leaves)
    for our, exa in zip(
        [ours, *our_grads], [exact, *torch.autograd.grad(exact, leaves, incoming.double())], strict=True
    ):
        assert_near(our, exa.detach(), dtype)


@TRITON
@pytest.mark.parametrize("activation", ["none", "relu", "gelu", "silu"])
def test_derivatives_of_activations_on_triton(activation: str) -> None:
    inputs = [t.requires_grad_() for t in layer(3, 4, 5, torch.float64)]
    assert gradcheck(lambda *t: run(iw.linear_activation, *t, activation, backend="triton"), inputs, fast_mode=True)


@TRITON
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_nan_and_infinity_are_not_hidden_on_triton(activation: str) -> None:
    x = torch.tensor([[torch.nan], [torch.inf], [-torch.inf], [0.0], [200.0], [-200.0]])
    one = torch.ones(1, 1)
    ours, theirs = (
        gradients(partial(run, iw.linear_activation, weight=one, activation=activation, backend=name), [x], 1)
        for name in ("triton", "reference")
    )
    torch.testing.assert_close(ours, theirs, equal_nan=True)


@TRITON
def test_autocast_and_frozen_parameters_on_triton() -> None:
    device = device_of("triton")
    hidden, weight, bias = (t.to(device) for t in layer(20, 30, 40, torch.float32))
    weight.requires_grad_()
    with torch.autocast(device, dtype=torch.bfloat16):
        ours = iw.linear_activation(hidden, weight, bias, "silu", backend="triton")
        theirs = F.silu(F.linear(hidden, weight, bias))
    assert ours.dtype == theirs.dtype == torch.bfloat16
    torch.testing.assert_close(ours, theirs, rtol=2**-6, atol=2**-7)
    by_ours, by_theirs = (torch.autograd.grad(y.float().square().sum(), weight)[0] for y in (ours, theirs))
    assert by_ours.dtype == torch.float32
    torch.testing.assert_close(by_ours, by_theirs, rtol=0.0, atol=2**-5 * float(by_theirs.abs().max()))
    hidden.requires_grad_()
    bias.requires_grad_()
    frozen = weight.detach()
    output = iw.linear_activation(hidden, frozen, bias, backend="triton")
    expected = torch.tanh(F.linear(hidden, frozen, bias))
    ours_grads, grads = (torch.autograd.grad(y.sum(), [hidden, bias]) for y in (output, expected))
    torch.testing.assert_close(ours_grads, grads)


@TRITON
@pytest.mark.parametrize("rows", [20, 600])
def test_rows_may_have_coefficients_on_triton(rows: int) -> None:
    """Test rows whose coefficient is 0, which contribute nothing although they are not finite, and rows without a
    result, which give NaN."""
    device = device_of("triton")
    grad, hidden, weight = torch.randn(rows, 70), torch.randn(rows, 30), torch.randn(70, 30)
    coefficient, result = torch.randn(rows), torch.randn(rows)
    expected = coefficient[:, None] * grad
    expected[3] = 0.0
    exact = [(expected @ weight), expected[:, :].T @ hidden, expected.sum(0)]
    coefficient[3] = 0.0
    grad[3], hidden[3], result[3] = torch.nan, torch.inf, torch.nan

    def ours() -> list[Tensor]:
        tensors = (t.to(device) for t in (hidden, weight, coefficient, result))
        moved_hidden, moved_weight, *row = tensors
        found = NATIVE["triton"].linear_activation_backward(
            grad.to(device), None, moved_hidden, moved_weight, "none", [True] * 3, *row
        )
        return [t.cpu() for t in found]

    for our, exa in zip(ours(), exact, strict=True):
        assert_near(our, exa.double(), torch.float32)
    result[5] = torch.nan
    of_hidden, of_weight, of_bias = ours()
    assert of_hidden.isnan().any(1).nonzero().flatten().tolist() == [5]
    assert of_weight.isnan().all()
    assert of_bias.isnan().all()


@pytest.mark.skipif(BEST["cpu"] == REFERENCE, reason="the C++ extension is not installed")
def test_small_layers_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    cpu = NATIVE["cpu"]
    original = cpu.linear_activation
    monkeypatch.setattr(cpu, "linear_activation", lambda *a: used.append("tanh") or original(*a))
    layer, few = dense.TanhLayer(8, 64), dense.WORTH_A_KERNEL // 64 - 1
    x = torch.randn(few + 1, 8)
    small, large = layer(x[:few]), layer(x)
    assert used == ["tanh"]
    torch.testing.assert_close(small, large[:few])


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        (((3, 6), (7, 5), (7,)), r"hidden \(3, 6\) and weight \(7, 5\)"),
        (((3, 5), (7, 5), (5,)), r"bias must be \(7,\) as weight \(7, 5\), got \(5,\)"),
    ],
)
def test_bad_shapes(shapes: tuple[tuple[int, ...], ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        iw.linear_activation(*(torch.rand(shape) for shape in shapes), backend="reference")
