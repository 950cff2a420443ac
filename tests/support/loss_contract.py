"""The contract of the fused losses, in addition to :class:`contract.Contract`."""

from __future__ import annotations

import math
from contextlib import nullcontext

import pytest
import strategies
import tolerances
import torch
from contract import Contract, gradients
from devices import BACKENDS, COMPILED, TRITON, device_of
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

EMULATED = device_of("cuda") == "cpu"
if EMULATED:
    import emulated_cuda

DEVICES = [
    pytest.param(*backend.values, clusters, marks=backend.marks)
    for backend in COMPILED
    for clusters in ([True, False] if backend.values[0] == "cuda" and EMULATED else [None])
]
"""Pairs of a backend and True for a GPU with clusters of blocks, which the emulator may have or not; None elsewhere."""


class FusedLossContract(Contract):
    """The contract of a fused loss: ``call`` takes the likelihood's parameters, then the log-ratio; ``log_prob`` is the
    likelihood."""

    @staticmethod
    def call(
        *inputs: Tensor, mask: Tensor | None = None, reduction: str = "mean", backend: str | None = None
    ) -> Tensor:
        raise TypeError("the loss's own test class says how it is called")

    @staticmethod
    def log_prob(*inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        raise TypeError("the loss's own test class gives its likelihood in torch's own operations")

    @staticmethod
    def way_on_cuda(clusters: bool, many_observations: bool) -> str:
        """Return which of the ways of csrc/cuda/iwae_loss.h computes the loss."""
        return "once" if clusters else "together" if many_observations else "apart"

    def composed(self, *inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Compute the loss of each observation by torch alone."""
        *parameters, log_ratio = inputs
        log_weights = self.log_prob(*parameters, mask=mask) + log_ratio
        return math.log(len(log_weights)) - torch.logsumexp(log_weights, 0)

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
        k, observations = data.draw(st.sampled_from([1, 2, 9, 50])), data.draw(st.integers(1, 5))
        size, dtype = data.draw(strategies.features), data.draw(st.sampled_from([torch.float32, torch.float64]))
        generator = torch.Generator().manual_seed(data.draw(strategies.seeds))

        def random(*shape: int) -> Tensor:
            tensor = torch.randn(*shape, generator=generator, dtype=torch.float64)
            return strategies.lay_out(tensor.to(dtype), data.draw(strategies.layouts))

        parameters = [random(k, observations, size) for _ in self.names[1:-1]]
        inputs = [random(observations, size), *parameters, random(k, observations)]
        mask = torch.rand(size, generator=generator) > 0.3 if data.draw(st.booleans()) else None
        exact, exact_grads = gradients(lambda *t: self.composed(*t, mask=mask), [t.double() for t in inputs], 1)
        eager, eager_grads = gradients(lambda *t: self.composed(*t, mask=mask), inputs, 1)
        ours, our_grads = gradients(lambda *t: self.call(*t, mask=mask, reduction="none", backend=backend), inputs, 1)
        # Log-weights are of this size; an absolute error of theirs is a relative one of the weights.
        size_of_sum = float(exact.abs().max()) + 4 * size
        tolerances.assert_no_worse(ours, eager, exact, 4 * tolerances.ROUNDING[dtype] * size_of_sum)
        # The observations' gradient is a sum over samples whose terms cancel: their size before cancellation is taken
        # from gradients that are not summed.
        largest = max(float(exa.abs().max()) for exa in exact_grads) * (1.0 + size_of_sum)
        for our, eag, exa in zip(our_grads, eager_grads, exact_grads, strict=True):
            tolerances.assert_no_worse(our, eag, exa, tolerances.gradient_allowance(dtype, dtype, exa, largest))

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("dtype", strategies.DTYPES)
    def test_dtypes(self, backend: str, dtype: torch.dtype) -> None:
        inputs = [t.to(dtype) for t in self.example()]
        inputs[-1] = inputs[-1].float()
        result, grads = gradients(lambda *t: self.call(*t, backend=backend), inputs, 1)
        assert result.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert [g.dtype for g in grads] == [t.dtype for t in inputs]
        expected, expected_grads = gradients(
            lambda *t: self.call(*t, backend="reference"), [t.double() for t in inputs], 1
        )
        torch.testing.assert_close(result.double(), expected, rtol=1e-6, atol=1e-6)
        for grad, expected_grad in zip(grads, expected_grads, strict=True):
            torch.testing.assert_close(grad.double(), expected_grad, rtol=2 * 2.0**-8, atol=1e-4)

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    def test_reductions(self, backend: str) -> None:
        inputs = self.example()
        each, grads = gradients(lambda *t: self.call(*t, reduction="none", backend=backend), inputs, 1)
        for reduction in ("mean", "sum"):
            leaves = self.leaves()
            loss = self.call(*leaves, reduction=reduction, backend=backend)
            torch.testing.assert_close(loss, getattr(self.composed(*leaves), reduction)())
            ours = torch.autograd.grad(3.0 * loss, leaves)
            theirs = torch.autograd.grad(3.0 * getattr(self.composed(*leaves), reduction)(), leaves)
            torch.testing.assert_close(ours, theirs)
        assert each.shape == inputs[-1].shape[1:]
        assert len(grads) == len(inputs)

    @pytest.mark.parametrize("backend", BACKENDS)
    @pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
    def test_many_observations(self, backend: str, reduction: str) -> None:
        """Test sizes for which several programs of a kernel, or threads, contribute to a reduction."""
        inputs = [*(torch.randn(2, 150, 3) for _ in self.names[:-1]), torch.randn(2, 150)]
        ours = gradients(lambda *t: self.call(*t, reduction=reduction, backend=backend), inputs, 1)
        exact = gradients(lambda *t: self.call(*t, reduction=reduction, backend="reference"), inputs, 1)
        torch.testing.assert_close(ours, exact, rtol=1e-5, atol=1e-5)

    @pytest.mark.parametrize(("backend", "clusters"), DEVICES)
    @pytest.mark.parametrize("observations", [2, 260])
    @pytest.mark.parametrize(("reduction", "masked"), [("mean", False), ("none", True)])
    def test_gradients_from_the_forward_pass(
        self, backend: str, clusters: bool | None, observations: int, reduction: str, masked: bool
    ) -> None:
        """Test few and many observations, on GPUs with clusters of blocks and without, for which CUDA has different
        kernels; check on the emulator that these ran."""
        value, *others = (
            torch.randn(observations, 12),
            *(torch.randn(7, observations, 12) for _ in self.names[1:-1]),
            torch.randn(7, observations),
        )
        others[-1][3, :] = -math.inf
        mask = torch.rand(12) > 0.3 if masked else None
        exact, exact_grads = gradients(
            lambda *t: self.call(value.double(), *t, mask=mask, reduction=reduction, backend="reference"),
            [t.double() for t in others],
            1,
        )
        with nullcontext() if clusters is None else emulated_cuda.clusters(clusters):
            ours, grads = gradients(
                lambda *t: self.call(value, *t, mask=mask, reduction=reduction, backend=backend), others, 1
            )
        if clusters is not None:
            assert emulated_cuda.way_of_losses() == self.way_on_cuda(clusters, observations > 2)
        torch.testing.assert_close(ours.double(), exact, rtol=1e-5, atol=1e-5)
        for grad, exact_grad in zip(grads, exact_grads, strict=True):
            allowed = 1e-5 * float(exact_grad.abs().max())
            torch.testing.assert_close(grad.double(), exact_grad, rtol=1e-4, atol=allowed)

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    def test_impossible_samples_weigh_nothing(self, backend: str) -> None:
        inputs = self.example()
        inputs[-1][0, :] = -math.inf
        inputs[-1][:, 1] = -math.inf
        loss, grads = gradients(lambda *t: self.call(*t, reduction="none", backend=backend), inputs, 1)
        assert loss[1] == math.inf
        assert loss[[0, 2, 3]].isfinite().all()
        for grad in grads:
            assert grad.isfinite().all()
        assert (grads[-1][0] == 0).all()
        assert (grads[-1][:, 1] == 0).all()

    @pytest.mark.parametrize("backend", BACKENDS)
    def test_weights_of_zero_stop_what_is_not_finite(self, backend: str) -> None:
        leaves = [t.detach() for t in self.leaves()]
        leaves[-1][0, :] = -math.inf
        leaves = [t.requires_grad_() for t in leaves]
        loss = self.call(*leaves, reduction="none", backend=backend)
        (grad,) = torch.autograd.grad(loss, leaves[-1], torch.tensor([1.0, math.inf, math.nan, 0.0]).double())
        assert (grad[0] == 0).all()
        assert not grad[1:, 1:3].isfinite().any()

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    def test_broadcast_log_ratio_and_one_sample(self, backend: str) -> None:
        for log_ratio_shape, k in (((1, 4), 3), ((), 3), ((3, 1), 3), ((1, 4), 1)):
            leaves = [*(t[-k:] if t.dim() == 3 else t for t in self.leaves()[:-1])]
            log_ratio = torch.randn(log_ratio_shape, dtype=torch.float64, requires_grad=True)
            ours = torch.autograd.grad(self.call(*leaves, log_ratio, backend=backend), log_ratio)
            theirs = torch.autograd.grad(self.composed(*leaves, log_ratio).mean(), log_ratio)
            torch.testing.assert_close(ours, theirs)

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    def test_log_ratio_of_another_dtype(self, backend: str) -> None:
        parameters = len(self.names) - 1
        inputs = [torch.full((993,), value) for value in (1.0, -200.0, *[0.0] * parameters)[:parameters]]
        loss = self.call(*inputs, torch.zeros(5, dtype=torch.float16), reduction="none", backend=backend)
        exact = self.composed(*(t.double().expand(5, 993) for t in inputs), torch.zeros(5, dtype=torch.float64))
        torch.testing.assert_close(loss.double(), exact)
        inputs = [torch.rand(40), *(torch.rand(3, 40) for _ in self.names[1:-1]), torch.rand(3, dtype=torch.float64)]
        loss = self.call(*inputs, backend=backend)
        torch.testing.assert_close(loss, self.composed(*(t.double() for t in inputs)), rtol=1e-12, atol=0)

    def test_nine_axes_by_the_log_ratio_fall_back(self) -> None:
        inputs = [torch.rand(3) for _ in self.names[:-1]]
        assert self.call(*inputs, torch.zeros(1, 1, 1, 1, 1, 1, 2, 2), reduction="none").shape == (1, 1, 1, 1, 1, 2, 2)

    @pytest.mark.parametrize("backend", [*BACKENDS, "reference"])
    def test_no_observations(self, backend: str) -> None:
        inputs = [t[..., :0, :] if t.dim() > 1 else t for t in self.example()[:-1]]
        loss, _ = gradients(lambda *t: self.call(*t, reduction="none", backend=backend), [*inputs, torch.ones(3, 0)], 1)
        assert loss.shape == (0,)

    def test_no_samples(self) -> None:
        inputs = [t[:0] if t.dim() == 3 else t for t in self.example()[:-1]]
        with pytest.raises(ValueError, match="k = 0"):
            self.call(*inputs, torch.ones(0, 4))

    def test_no_axis_of_samples(self) -> None:
        with pytest.raises(ValueError, match="no axis of samples"):
            self.call(*(torch.ones(5) for _ in self.names[:-1]), torch.tensor(1.0))

    def test_log_ratio_that_does_not_fit(self) -> None:
        with pytest.raises(ValueError, match=r"log_ratio \(2, 4\)"):
            self.call(*self.example()[:-1], torch.ones(2, 4))
        for shape in ((4,), (3, 3, 4)):  # shapes that would broadcast
            with pytest.raises(ValueError, match=r"must have the axes of the likelihood \(k, ...\) \(3, 4\)"):
                self.call(*self.example()[:-1], torch.ones(shape))
