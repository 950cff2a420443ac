"""Tests of a dense layer with tanh in one op."""

from __future__ import annotations

import pytest
import tolerances
import torch
import torch.nn.functional as F
from contract import Contract, gradients
from devices import BACKENDS, run
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import iwae_fast as iw
from iwae_fast.backends import BEST, NATIVE, REFERENCE
from iwae_fast.models import dense
from iwae_fast.ops.function import supports


class TestLinearTanh(Contract):
    names = ("hidden", "weight", "bias")

    @staticmethod
    def call(*inputs: Tensor, backend: str | None = None) -> Tensor:
        return run(iw.linear_tanh, *inputs, backend=backend)

    @staticmethod
    def example() -> list[Tensor]:
        return [t.double() for t in (torch.randn(3, 4, 5), torch.randn(11, 5), torch.randn(11))]

    @pytest.fixture(autouse=True)
    def offered(self, request: pytest.FixtureRequest) -> None:
        callspec = getattr(request.node, "callspec", None)
        backend = callspec.params.get("backend") if callspec else None
        if backend in NATIVE and not supports("linear_tanh", backend):
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
        exact, exact_grads = gradients(lambda *t: self.call(*t, backend="reference"), [t.double() for t in inputs], 1)
        eager, eager_grads = gradients(lambda *t: self.call(*t, backend="reference"), inputs, 1)
        ours, our_grads = gradients(lambda *t: self.call(*t, backend=backend), inputs, 1)
        tolerances.assert_no_worse(ours, eager, exact, 8 * tolerances.ROUNDING[torch.float32])
        for our, eag, exa in zip(our_grads, eager_grads, exact_grads, strict=True):
            allowance = 32 * tolerances.ROUNDING[torch.float32] * (1.0 + float(exa.abs().amax() if exa.numel() else 0))
            tolerances.assert_no_worse(our, eag, exa, allowance)

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_tanh_itself(self, backend: str, dtype: torch.dtype) -> None:
        """Bound the error relative to the result, also near 0."""
        x = torch.cat([torch.linspace(-30, 30, 6001), torch.logspace(-30, 2, 2000), -torch.logspace(-30, 2, 2000)])
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


@pytest.mark.skipif(BEST["cpu"] == REFERENCE, reason="the C++ extension is not installed")
def test_small_layers_are_left_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    used: list[str] = []
    cpu = NATIVE["cpu"]
    original = cpu.linear_tanh
    monkeypatch.setattr(cpu, "linear_tanh", lambda *a: used.append("linear_tanh") or original(*a))
    layer, few = dense.TanhLayer(8, 64), dense.WORTH_A_KERNEL // 64 - 1
    x = torch.randn(few + 1, 8)
    small, large = layer(x[:few]), layer(x)
    assert used == ["linear_tanh"]
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
        iw.linear_tanh(*(torch.rand(shape) for shape in shapes), backend="reference")
