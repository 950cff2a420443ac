"""The contract of every op, as tests that the op's own test file inherits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import strategies
import tolerances
import torch
import torch.fx.experimental.proxy_tensor
from devices import BACKENDS, COMPILATIONS, COMPILED, TRITON, device_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck

from iwae_fast.backends import BackendError


def gradients(function: Callable[..., Tensor], inputs: list[Tensor], grad_seed: int) -> tuple[Tensor, list[Tensor]]:
    """Compute the result for these inputs, and their gradients for a random upstream gradient."""
    leaves = [t.detach().requires_grad_() for t in inputs]
    result = function(*leaves)
    incoming = upstream_gradient(result.shape, grad_seed).to(result.dtype)
    return result.detach(), list(torch.autograd.grad(result, leaves, incoming))


def upstream_gradient(shape: tuple[int, ...], seed: int) -> Tensor:
    """Return the random upstream gradient that ``gradients`` takes, in float64."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


class Contract:
    """The contract of every differentiable op; ``example`` returns small float64 inputs, ``call`` runs the op."""

    names: ClassVar[tuple[str, ...]]

    @staticmethod
    def call(*inputs: Tensor, backend: str | None = None) -> Tensor:
        raise TypeError("the op's own test class says how it is called")

    @staticmethod
    def example() -> list[Tensor]:
        raise TypeError("the op's own test class gives an example")

    def leaves(self, dtype: torch.dtype = torch.float64) -> list[Tensor]:
        torch.manual_seed(0)  # the same numbers at every call
        return [t.to(dtype).requires_grad_() for t in self.example()]

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    def test_gradcheck(self, backend: str) -> None:
        # A call takes milliseconds in Triton's interpreter: check random directions of all inputs, not each entry.
        fast = backend == "triton" and device_of(backend) == "cpu"
        assert gradcheck(lambda *t: self.call(*t, backend=backend), self.leaves(), fast_mode=fast)

    def test_second_derivative_of_reference(self) -> None:
        assert gradgradcheck(lambda *t: self.call(*t, backend="reference"), self.leaves())

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_second_derivative_raises(self, backend: str) -> None:
        leaves = self.leaves()
        first = torch.autograd.grad(self.call(*leaves, backend=backend).sum(), leaves, create_graph=True)
        with pytest.raises(RuntimeError, match="second derivatives"):
            sum(g.square().sum() for g in first).backward()  # type: ignore[union-attr]

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_gradient_of_a_sum_is_stride_zero(self, backend: str) -> None:
        ours, exact = (
            torch.autograd.grad(self.call(*leaves, backend=name).sum(), leaves)
            for name, leaves in ((backend, self.leaves()), ("reference", self.leaves()))
        )
        torch.testing.assert_close(ours, exact)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_each_gradient_alone(self, backend: str) -> None:
        everything = torch.autograd.grad(self.call(*(all_ := self.leaves()), backend=backend).sum(), all_)
        for index in range(len(everything)):
            leaves = [t.detach().requires_grad_(i == index) for i, t in enumerate(self.leaves())]
            (alone,) = torch.autograd.grad(self.call(*leaves, backend=backend).sum(), leaves[index])
            torch.testing.assert_close(alone, everything[index], rtol=1e-12, atol=1e-14)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_incoming_gradient_is_not_written(self, backend: str) -> None:
        leaves = self.leaves()
        result = self.call(*leaves, backend=backend)
        incoming = torch.randn_like(result)
        before = incoming.clone()
        torch.autograd.grad(result, leaves, incoming)
        assert torch.equal(incoming, before)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_same_bits_again_and_on_one_thread(self, backend: str) -> None:
        inputs = [t.float() for t in self.example()]
        first = gradients(lambda *t: self.call(*t, backend=backend), inputs, 1)
        threads = torch.get_num_threads()
        try:
            torch.set_num_threads(1)
            second = gradients(lambda *t: self.call(*t, backend=backend), inputs, 1)
        finally:
            torch.set_num_threads(threads)
        torch.testing.assert_close(first, second, rtol=0, atol=0)

    @pytest.mark.parametrize(("backend", "dynamic"), COMPILATIONS)
    def test_compiles_as_one_graph(self, backend: str, dynamic: bool) -> None:
        torch._dynamo.reset()

        def through(*inputs: Tensor) -> Tensor:
            return self.call(*(t * 1.0 for t in inputs), backend=backend).sin()

        compiled = torch.compile(through, fullgraph=True, dynamic=dynamic, backend="aot_eager")
        inputs = [t.float() for t in self.example()]
        torch.testing.assert_close(gradients(compiled, inputs, 2), gradients(through, inputs, 2))

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_compiles_as_one_graph_where_no_input_needs_a_gradient(self, backend: str) -> None:
        torch._dynamo.reset()
        compiled = torch.compile(lambda *t: self.call(*t, backend=backend), fullgraph=True, backend="eager")
        inputs = [t.float() for t in self.example()]
        torch.testing.assert_close(compiled(*inputs), self.call(*inputs, backend=backend))

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_vjp_when_its_transform_is_over(self, backend: str) -> None:
        result, pull = torch.func.vjp(lambda *t: self.call(*t, backend=backend), *self.example())
        incoming = torch.randn_like(result)
        exact = torch.autograd.grad(self.call(*(leaves := self.leaves()), backend="reference"), leaves, incoming)
        torch.testing.assert_close(pull(incoming), exact)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_vmap_over_something_else(self, backend: str) -> None:
        inputs = self.example()
        expected = self.call(*inputs, backend=backend)
        scaled = torch.func.vmap(lambda scale: scale * self.call(*inputs, backend=backend))(torch.arange(2.0).double())
        torch.testing.assert_close(scaled, torch.stack([0.0 * expected, expected]))

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_func_transforms(self, backend: str) -> None:
        example = tuple(self.example())
        positions = tuple(range(len(example)))

        def total(*inputs: Tensor, name: str) -> Tensor:
            return self.call(*inputs, backend=name).sum()

        exact = torch.autograd.grad(total(*(leaves := self.leaves()), name="reference"), leaves)
        ours = torch.func.grad(lambda *t: total(*t, name=backend), positions)(*example)
        torch.testing.assert_close(tuple(ours), tuple(exact))

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_jacobian_in_reverse_mode(self, backend: str) -> None:
        example = self.example()[-1]

        others = self.example()[:-1]

        def last(name: str) -> Callable[[Tensor], Tensor]:
            return lambda t: self.call(*others, t, backend=name)

        ours, exact = (torch.func.jacrev(last(name))(example) for name in (backend, "reference"))
        torch.testing.assert_close(ours, exact)
        with pytest.raises(RuntimeError, match="need backend='reference'"):
            torch.autograd.functional.jacobian(last(backend), example, vectorize=True)

    def test_forward_mode_falls_back(self) -> None:
        example = tuple(self.example())
        _, tangent = torch.func.jvp(self.call, example, example)
        leaves = [t.clone().requires_grad_() for t in example]
        result = self.call(*leaves)
        grads = torch.autograd.grad(result, leaves, torch.ones_like(result))
        expected = sum((g * t).sum() for g, t in zip(grads, example, strict=True))
        torch.testing.assert_close(tangent.sum(), expected)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_make_fx_records_the_op(self, backend: str) -> None:
        inputs = self.example()
        graph = torch.fx.experimental.proxy_tensor.make_fx(lambda *t: self.call(*t, backend=backend))(*inputs)
        moved = [t + 0.1 for t in inputs]
        torch.testing.assert_close(graph(*moved), self.call(*moved, backend=backend))

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_incoming_gradients_without_memory_of_their_own(self, backend: str) -> None:
        leaves = self.leaves()
        result = self.call(*leaves, backend=backend)
        negated = torch.complex(torch.zeros_like(result), torch.ones_like(result)).detach().conj().imag
        for lazy, factor in ((negated, -1.0), (torch._efficientzerotensor(result.shape, dtype=result.dtype), 0.0)):
            ours = torch.autograd.grad(result, leaves, lazy, retain_graph=True)
            plain = torch.full_like(result, factor).detach()
            torch.testing.assert_close(ours, torch.autograd.grad(result, leaves, plain, retain_graph=True))

    def test_zero_tensor_falls_back(self) -> None:
        inputs = self.example()
        lazy = torch._efficientzerotensor(inputs[0].shape, dtype=inputs[0].dtype)
        torch.testing.assert_close(self.call(lazy, *inputs[1:]), self.call(torch.zeros_like(inputs[0]), *inputs[1:]))

    def test_vmap_falls_back(self) -> None:
        inputs = [torch.stack([t, t + 0.1]) for t in self.example()]
        one_by_one = torch.stack([self.call(*(t[i] for t in inputs)) for i in range(2)])
        torch.testing.assert_close(torch.func.vmap(self.call)(*inputs), one_by_one)

    @pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
    def test_autocast(self, dtype: torch.dtype) -> None:
        inputs = [t.float() for t in self.example()]
        with torch.autocast("cpu", dtype=dtype):
            result, grads = gradients(self.call, inputs, 3)
        assert result.dtype == torch.float32
        torch.testing.assert_close((result, grads), gradients(self.call, inputs, 3))

    def test_integers_are_refused(self) -> None:
        for index, name in enumerate(self.names):
            inputs: list[Any] = self.example()
            inputs[index] = inputs[index].long()
            with pytest.raises(TypeError, match=f"{name} must be float32.*int64"):
                self.call(*inputs)
            inputs[index] = 3.0
            with pytest.raises(TypeError, match=f"{name} must be a torch.Tensor, got float"):
                self.call(*inputs)

    def test_unknown_backend(self) -> None:
        with pytest.raises(ValueError, match="unknown backend 'warp'"):
            self.call(*self.example(), backend="warp")

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_sparse_is_refused_by_a_forced_backend(self, backend: str) -> None:
        inputs = self.example()
        inputs[0] = inputs[0].to_sparse()
        with pytest.raises(BackendError, match="sparse"):
            self.call(*inputs, backend=backend)


class DensityContract(Contract):
    """The contract of log-densities summed over the last axis; ``terms`` returns the float64 terms of the sum."""

    @staticmethod
    def call(*inputs: Tensor, mask: Tensor | None = None, backend: str | None = None) -> Tensor:
        raise TypeError("the op's own test class says how it is called")

    @staticmethod
    def terms(*inputs: Tensor) -> Tensor:
        raise TypeError("the op's own test class gives its terms")

    @pytest.mark.parametrize("backend", COMPILED)
    @given(data=st.data())
    def test_no_worse_than_torch(self, backend: str, data: st.DataObject) -> None:
        self.check_no_worse_than_torch(backend, data)

    @pytest.mark.parametrize("backend", TRITON)
    @settings(max_examples=settings.default.max_examples // 4)
    @given(data=st.data())
    def test_no_worse_than_torch_on_triton(self, backend: str, data: st.DataObject) -> None:
        self.check_no_worse_than_torch(backend, data)

    def check_no_worse_than_torch(self, backend: str, data: st.DataObject) -> None:
        inputs, mask = data.draw(strategies.parameters(len(self.names)))
        exact, exact_grads = gradients(
            lambda *t: self.call(*t, mask=mask, backend="reference"), [t.double() for t in inputs], 4
        )
        eager, eager_grads = gradients(lambda *t: self.call(*t, mask=mask, backend="reference"), inputs, 4)
        ours, our_grads = gradients(lambda *t: self.call(*t, mask=mask, backend=backend), inputs, 4)
        assert ours.dtype == eager.dtype
        terms = self.terms(*(t.double() for t in inputs))
        if mask is not None:
            terms = torch.where(mask, terms, 0.0)
        tolerances.assert_no_worse(ours, eager, exact, tolerances.sum_allowance(ours.dtype, terms))
        # Terms cancel, within one entry (v - sigmoid(l) is a difference of numbers of size 1) and over broadcast axes:
        # their size before cancellation is taken from the gradients that are not summed.
        largest = (4.0 + max(float(exa.abs().max()) for exa in exact_grads)) * ours.numel()
        for our, eag, exa, source in zip(our_grads, eager_grads, exact_grads, inputs, strict=True):
            assert our.dtype == source.dtype
            assert our.shape == source.shape
            allowance = tolerances.gradient_allowance(ours.dtype, our.dtype, exa, largest)
            tolerances.assert_no_worse(our, eag, exa, allowance)

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    @pytest.mark.parametrize("dtype", strategies.DTYPES)
    def test_masked_features_count_nothing(self, backend: str, dtype: torch.dtype) -> None:
        kept = torch.arange(70) % 3 != 0
        inputs = [torch.randn(4, 70).to(dtype) for _ in self.names]
        expected, expected_grads = gradients(lambda *t: self.call(*t, backend=backend), [t[:, kept] for t in inputs], 5)
        for rubbish in (torch.nan, torch.inf):
            dirty = [t.clone() for t in inputs]
            for t in dirty:
                t[:, ~kept] = rubbish
            result, grads = gradients(lambda *t: self.call(*t, mask=kept, backend=backend), dirty, 5)
            torch.testing.assert_close(result, expected)
            for grad, expected_grad in zip(grads, expected_grads, strict=True):
                torch.testing.assert_close(grad[:, kept], expected_grad)
                assert (grad[:, ~kept] == 0).all()

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    @pytest.mark.parametrize("shape", [(0, 3, 5), (4, 0, 5), (4, 3, 0), (0, 0)])
    def test_empty(self, backend: str, shape: tuple[int, ...]) -> None:
        result, grads = gradients(lambda *t: self.call(*t, backend=backend), [torch.ones(shape)] * len(self.names), 6)
        assert torch.equal(result, torch.zeros(shape[:-1]))
        assert all(g.shape == shape for g in grads)

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    @pytest.mark.parametrize("batch", [(0,), (3, 0), (0, 3)])
    def test_parameters_shared_by_an_empty_batch_get_zero_gradients(self, backend: str, batch: tuple[int, ...]) -> None:
        if len(self.names) == 1:
            pytest.skip("nothing is shared by one parameter")
        inputs = [torch.ones(*batch, 5), *(torch.ones(5) for _ in self.names[1:])]
        _, grads = gradients(lambda *t: self.call(*t, backend=backend), inputs, 6)
        assert all((g == 0).all() for g in grads[1:])

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_gradients_summed_over_many_rows_keep_their_digits(self, backend: str) -> None:
        if len(self.names) == 1:
            pytest.skip("nothing is shared by one parameter")
        inputs = [torch.full((100_000, 1), 0.1), *(torch.full((1,), 0.3) for _ in self.names[1:])]
        leaves = [t.requires_grad_() for t in inputs]
        ours = torch.autograd.grad(self.call(*leaves, backend=backend).sum(), leaves[1:])
        doubles = [t.detach().double().requires_grad_() for t in inputs]
        exact = torch.autograd.grad(self.call(*doubles, backend="reference").sum(), doubles[1:])
        for our, exa in zip(ours, exact, strict=True):
            torch.testing.assert_close(our.double(), exa, rtol=4e-7, atol=0)

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_gradients_summed_in_parts(self, backend: str) -> None:
        if len(self.names) == 1:
            pytest.skip("nothing is shared by one parameter")
        inputs = [torch.randn(2000, 5, dtype=torch.float64), *(torch.randn(5).double() for _ in self.names[1:])]
        ours = gradients(lambda *t: self.call(*t, backend=backend), inputs, 6)
        torch.testing.assert_close(ours, gradients(lambda *t: self.call(*t, backend="reference"), inputs, 6))

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_one_feature_for_all_in_half_precision(self, backend: str) -> None:
        if len(self.names) == 1:
            pytest.skip("nothing is shared by one parameter")
        inputs = [torch.randn(8, 784), *(torch.full((1, 1), -0.5, dtype=torch.float16) for _ in self.names[1:])]
        _, ours = gradients(lambda *t: self.call(*t, backend=backend), inputs, 6)
        _, exact = gradients(lambda *t: self.call(*t, backend="reference"), [t.double() for t in inputs], 6)
        for our, exa in zip(ours[1:], exact[1:], strict=True):
            torch.testing.assert_close(our.double(), exa, rtol=2.0**-10, atol=0)

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    def test_nan_gradients_do_not_reach_masked_features(self, backend: str) -> None:
        leaves = [torch.rand(2, 4).requires_grad_() for _ in self.names]
        mask = torch.tensor([True, True, False, True])
        result = self.call(*leaves, mask=mask, backend=backend)
        for grad in torch.autograd.grad(result, leaves, torch.tensor([torch.nan, 1.0])):
            assert grad[0].isnan().tolist() == [True, True, False, True]
            assert (grad[:, 2] == 0).all()

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    def test_nan_is_never_hidden(self, backend: str) -> None:
        for index in range(len(self.names)):
            inputs = [torch.rand(3, 20) for _ in self.names]
            inputs[index][1, 7] = torch.nan
            result = self.call(*inputs, backend=backend)
            assert result.isnan().tolist() == [False, True, False]

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_many_axes_and_a_trailing_one(self, backend: str) -> None:
        inputs = [torch.randn(2, 1, 3, 1, 2, 2, 4), *(torch.randn(5, 3, 1, 1, 2, 1) for _ in self.names[1:])]
        result = gradients(lambda *t: self.call(*t, backend=backend), inputs, 7)
        torch.testing.assert_close(
            result, gradients(lambda *t: self.call(*t, backend="reference"), inputs, 7), rtol=1e-5, atol=1e-5
        )

    def test_nine_axes_fall_back(self) -> None:
        inputs = [torch.randn(1, 1, 1, 1, 1, 2, 1, 1, 3) for _ in self.names]
        assert self.call(*inputs).shape == (1, 1, 1, 1, 1, 2, 1, 1)

    def test_shapes_that_do_not_fit(self) -> None:
        if len(self.names) > 1:
            inputs = [torch.ones(2, 5), torch.ones(3, 5), *(torch.ones(5) for _ in self.names[2:])]
            with pytest.raises(ValueError, match=r"do not broadcast: .*\(2, 5\).*\(3, 5\)"):
                self.call(*inputs)
        with pytest.raises(ValueError, match="must have a last axis"):
            self.call(*(torch.tensor(1.0) for _ in self.names))

    def test_masks_that_do_not_fit(self) -> None:
        inputs = [torch.ones(2, 5) for _ in self.names]
        with pytest.raises(TypeError, match="mask must be a bool tensor"):
            self.call(*inputs, mask=torch.ones(5))
        with pytest.raises(ValueError, match=r"\(4,\)"):
            self.call(*inputs, mask=torch.ones(4, dtype=torch.bool))
        with pytest.raises(ValueError, match="does not broadcast"):
            self.call(*inputs, mask=torch.ones(3, 2, 5, dtype=torch.bool))
