from __future__ import annotations

import math

import pytest
import strategies
import tolerances
import torch
from contract import Contract, gradients
from devices import BACKENDS, COMPILED, TRITON, device_of, run
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import iwae_fast as iw
from iwae_fast.backends import NATIVE


def stable_float64(log_weights: Tensor, dim: int) -> Tensor:
    shift = log_weights.detach().amax(dim, keepdim=True).double()  # exact, and keeps the digits of the differences
    return torch.logsumexp(log_weights.double() - shift, dim) + shift.squeeze(dim) - math.log(log_weights.shape[dim])


class TestLogMeanExp(Contract):
    names = ("log_weights",)

    @staticmethod
    def call(*inputs: Tensor, backend: str | None = None) -> Tensor:
        return run(iw.log_mean_exp, *inputs, dim=0, backend=backend)

    @staticmethod
    def example() -> list[Tensor]:
        return [3.0 * torch.randn(6, 4, 3, dtype=torch.float64)]

    @pytest.mark.parametrize("backend", [*COMPILED, "reference"])
    @given(data=st.data())
    def test_no_worse_than_torch(self, backend: str, data: st.DataObject) -> None:
        self.check_no_worse_than_torch(backend, data)

    @pytest.mark.parametrize("backend", TRITON)
    @settings(max_examples=settings.default.max_examples // 4)
    @given(data=st.data())
    def test_no_worse_than_torch_on_triton(self, backend: str, data: st.DataObject) -> None:
        self.check_no_worse_than_torch(backend, data)

    def check_no_worse_than_torch(self, backend: str, data: st.DataObject) -> None:
        shape = data.draw(st.lists(st.integers(1, 20), min_size=1, max_size=3))
        dim = data.draw(st.integers(-len(shape), len(shape) - 1))
        shape[dim] = data.draw(st.sampled_from([1, 2, 7, 50, 300]))
        generator = torch.Generator().manual_seed(data.draw(strategies.seeds))
        scale, offset = data.draw(st.sampled_from([0.1, 3.0, 100.0])), data.draw(st.sampled_from([0.0, -90.0, 1e4]))
        log_weights = scale * torch.randn(shape, generator=generator, dtype=torch.float64) + offset
        log_weights = strategies.lay_out(log_weights.to(data.draw(strategies.dtypes)), data.draw(strategies.layouts))
        widened = log_weights.to(torch.promote_types(log_weights.dtype, torch.float32))

        exact, (exact_grad,) = gradients(lambda t: stable_float64(t, dim), [log_weights.double()], 1)
        eager, (eager_grad,) = gradients(
            lambda t: torch.logsumexp(t, dim) - math.log(log_weights.shape[dim]), [widened], 1
        )
        ours, (our_grad,) = gradients(lambda t: run(iw.log_mean_exp, t, dim, backend=backend), [log_weights], 1)
        assert ours.dtype == widened.dtype
        # log k is subtracted from the logarithm of a sum of k terms, so it is as large as that even if they cancel.
        terms = 1.0 + exact.abs() + math.log(log_weights.shape[dim])
        tolerances.assert_no_worse(ours, eager, exact, 4 * tolerances.ROUNDING[ours.dtype] * terms)
        assert our_grad.dtype == log_weights.dtype
        # exp turns an absolute error of its argument into a relative one of the weight.
        reach = float((widened.amax(dim) - widened.amin(dim)).max())
        largest = float(exact_grad.abs().max()) * (1.0 + reach / 4)
        allowance = tolerances.gradient_allowance(ours.dtype, our_grad.dtype, exact_grad, largest)
        tolerances.assert_no_worse(our_grad, eager_grad, exact_grad, allowance)

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    def test_column_of_minus_infinity(self, backend: str) -> None:
        log_weights = torch.tensor([[-math.inf, -math.inf, 0.0], [-math.inf, 1.0, math.log(3.0)]], requires_grad=True)
        bound = run(iw.log_mean_exp, log_weights, backend=backend)
        torch.testing.assert_close(bound, torch.tensor([-math.inf, 1.0 - math.log(2.0), math.log(2.0)]))
        bound.sum().backward()
        torch.testing.assert_close(log_weights.grad, torch.tensor([[0.0, 0.0, 0.25], [0.0, 1.0, 0.75]]))

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_column_of_minus_infinity_stops_what_is_not_finite(self, backend: str) -> None:
        log_weights = torch.full((3, 2), -math.inf, requires_grad=True)
        bound = run(iw.log_mean_exp, log_weights, backend=backend)
        bound.backward(torch.tensor([math.nan, math.inf]))
        assert (log_weights.grad == 0).all()

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    def test_nan_and_plus_infinity(self, backend: str) -> None:
        log_weights = torch.tensor([[math.nan, 0.0, 0.0, math.nan], [0.0, math.nan, math.inf, -math.inf]])
        bound = run(iw.log_mean_exp, log_weights, backend=backend)
        assert bound.isnan().tolist() == [True, True, False, True]
        assert bound[2] == math.inf

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    @pytest.mark.parametrize("shift", [1e4, -1e4])
    def test_shift_invariance(self, backend: str, shift: float) -> None:
        # A grid on which the shifted numbers are exact in float32, so that only the function's own rounding is seen.
        log_weights = torch.randint(-64, 64, (50, 20)) / 16.0
        moved = run(iw.log_mean_exp, log_weights + shift, backend=backend) - shift
        torch.testing.assert_close(moved, run(iw.log_mean_exp, log_weights, backend=backend), rtol=0, atol=2.0**-10)
        _, grads = gradients(lambda t: run(iw.log_mean_exp, t, backend=backend), [log_weights], 1)
        _, moved_grads = gradients(lambda t: run(iw.log_mean_exp, t, backend=backend), [log_weights + shift], 1)
        torch.testing.assert_close(moved_grads, grads)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_permutation_of_samples(self, backend: str) -> None:
        log_weights = 5 * torch.randn(50, 20)
        shuffled = log_weights[torch.randperm(50)]
        torch.testing.assert_close(
            run(iw.log_mean_exp, log_weights, backend=backend),
            run(iw.log_mean_exp, shuffled, backend=backend),
            rtol=0,
            atol=1e-6,
        )

    @pytest.mark.parametrize("backend", COMPILED)
    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
    @pytest.mark.parametrize(
        ("k", "columns"),
        [(1, 1), (5000, 1), (1100, 3), (700, 20), (9, 64), (16, 128), (33, 128), (90, 132), (5, 516), (70, 516)],
    )
    def test_columns_and_samples(self, backend: str, dtype: torch.dtype, k: int, columns: int) -> None:
        """Check few and many columns with few and many samples, which are divided differently among threads, with
        weights of zero, a column of them, and a NaN; also parts of tensors with other strides."""
        generator = torch.Generator().manual_seed(0)
        given = 20 * torch.randn((k, 2 * columns), generator=generator, dtype=torch.float64)
        given[::7] = -math.inf
        given[0] += 300.0 * (given[0] > 0)
        given[:, -1] = -math.inf
        given[k // 2, 0] = math.nan
        given = given.to(dtype)  # here, since a conversion of a view is contiguous
        odd = torch.cat([given, given[:, :1]], 1)  # its rows are not aligned to 16 bytes
        for log_weights in (given[:, :columns], given[:, columns:], given[:, ::2], odd[:, :columns]):
            incoming = torch.linspace(-1.0, 1.0, columns, dtype=torch.promote_types(dtype, torch.float32))

            def with_gradient(log_weights: Tensor, incoming: Tensor, backend: str) -> tuple[Tensor, Tensor]:
                leaf = log_weights.detach().requires_grad_()
                bound = run(iw.log_mean_exp, leaf, 0, backend=backend)
                (gradient,) = torch.autograd.grad(bound, leaf, incoming)
                return bound.detach(), gradient

            found = with_gradient(log_weights, incoming, backend)
            exact = with_gradient(log_weights.double(), incoming.double(), "reference")
            rounding = 8 * torch.finfo(dtype).eps
            for mine, true in zip(found, exact, strict=True):
                size = float(true[true.isfinite()].abs().max()) if bool(true.isfinite().any()) else 1.0
                torch.testing.assert_close(mine.double(), true, rtol=rounding, atol=rounding * size, equal_nan=True)

    @pytest.mark.skipif(device_of("cuda") != "cpu", reason="a GPU does not say how a kernel was launched")
    @pytest.mark.parametrize("backend", [backend for backend in COMPILED if backend.values[0] == "cuda"])
    def test_few_columns_are_divided_along_the_samples(self, backend: str) -> None:
        kernels = NATIVE[backend].kernels  # type: ignore[attr-defined]
        for k, columns, launches in ((5000, 1, 2), (700, 20, 2), (50, 4096, 1), (10, 20, 1)):
            log_weights = torch.randn(k, columns)
            kernels.launches()
            iw.log_mean_exp(log_weights, 0, backend=backend)
            assert len(kernels.launches()) == launches, (k, columns)

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    @pytest.mark.parametrize("k", [1, 5000])
    def test_equal_weights(self, backend: str, k: int) -> None:
        log_weights = torch.full((k, 3), -90.25)
        torch.testing.assert_close(
            run(iw.log_mean_exp, log_weights, backend=backend), log_weights[0], rtol=0, atol=1e-5
        )

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    def test_empty_batch(self, backend: str) -> None:
        log_weights = torch.ones(5, 0, 3, requires_grad=True)
        bound = run(iw.log_mean_exp, log_weights, backend=backend)
        assert bound.shape == (0, 3)
        bound.sum().backward()
        assert log_weights.grad.shape == (5, 0, 3)

    def test_no_samples(self) -> None:
        with pytest.raises(ValueError, match=r"\(0, 3\) hold k = 0 samples along dim 0"):
            iw.log_mean_exp(torch.ones(0, 3))

    def test_bad_dim(self) -> None:
        with pytest.raises(ValueError, match=r"dim 2 is out of range for log_weights of shape \(4, 3\)"):
            iw.log_mean_exp(torch.ones(4, 3), dim=2)
        with pytest.raises(TypeError, match="dim must be an int, got float"):
            iw.log_mean_exp(torch.ones(4, 3), dim=0.0)
        with pytest.raises(ValueError, match="got a scalar"):
            iw.log_mean_exp(torch.tensor(1.0))
