"""The CUDA loss that reads every number once (csrc/cuda/iwae_loss_once.h): every layout of clusters and stages."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import density_ops
import pytest
import strategies
import tolerances
import torch
from devices import BACKENDS, device_of, run
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

import iwae_fast as iw
from iwae_fast.backends import NATIVE

LOSSES = [name for name in density_ops.LOSSES if "negative_binomial" not in name]
"""The losses that are read once; the formulas of counts are too long."""

CUDA = [backend for backend in BACKENDS if backend.values[0] == "cuda"]
Loss = Callable[..., Tensor]


def example(parameters: int, k: int, observations: int, size: int, generator: torch.Generator) -> list[Tensor]:
    """Return observations, so many parameters besides them, such as logits or means and scales, and a log-ratio."""

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    value, first, log_ratio = normal(observations, size), normal(k, observations, size), normal(k, observations)
    others = [normal(k, observations, size) / 3 for _ in range(parameters - 1)]
    return [value.sigmoid(), first, *others, log_ratio]


bernoulli, gaussian = partial(example, 1), partial(example, 2)


def with_gradients(loss: Loss, inputs: list[Tensor], backend: str | None, **options: object) -> list[Tensor]:
    """Return the loss, and its gradients by all inputs but the observations, for an upstream gradient of 1."""
    value, *others = inputs
    leaves = [t.detach().requires_grad_() for t in others]
    result = run(loss, value, *leaves, backend=backend, **options)
    return [result.detach(), *torch.autograd.grad(result.sum(), leaves)]


def assert_close(found: list[Tensor], exact: list[Tensor], rtol: float) -> None:
    for ours, theirs in zip(found, exact, strict=True):
        largest = float(theirs.nan_to_num(posinf=0.0, neginf=0.0).abs().max())
        torch.testing.assert_close(ours.double(), theirs, rtol=rtol, atol=rtol * largest, equal_nan=True)


@pytest.mark.parametrize("backend", CUDA)
@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=2 * settings.default.max_examples)
@given(data=st.data())
def test_no_worse_than_torch_in_every_layout(backend: str, name: str, data: st.DataObject) -> None:
    """Draw sizes from one block with two stages to a full cluster of large blocks, and beyond."""
    loss, names = density_ops.LOSSES[name]
    k, observations = data.draw(st.sampled_from([4, 5, 13, 50, 121])), data.draw(st.integers(1, 9))
    size = 4 * data.draw(st.sampled_from([1, 2, 3, 8, 40, 65]))
    dtype = data.draw(st.sampled_from([torch.float32, torch.bfloat16]))
    generator = torch.Generator().manual_seed(data.draw(strategies.seeds))
    inputs = example(len(names) - 1, k, observations, size, generator)
    inputs = [inputs[0].float(), *(t.to(dtype) for t in inputs[1:-1]), inputs[-1].float()]
    options = {
        "mask": torch.rand(size, generator=generator) > 0.3 if data.draw(st.booleans()) else None,
        "reduction": data.draw(st.sampled_from(["mean", "sum", "none"])),
    }
    exact = with_gradients(loss, [t.double() for t in inputs], "reference", **options)
    eager = with_gradients(loss, inputs, "reference", **options)
    ours = with_gradients(loss, inputs, backend, **options)
    # Log-weights are of this size; an absolute error of theirs is a relative one of the weights.
    size_of_sum = 4 * size + float(exact[0].abs().max())
    rounding = 4 * tolerances.ROUNDING[torch.float32] * size_of_sum
    tolerances.assert_no_worse(
        ours[0], eager[0], exact[0], rounding * (observations if options["reduction"] == "sum" else 1)
    )
    largest = max(float(gradient.abs().max()) for gradient in exact[1:]) * (1.0 + size_of_sum)
    for mine, torchs, true in zip(ours[1:], eager[1:], exact[1:], strict=True):
        allowed = tolerances.gradient_allowance(torch.float32, mine.dtype, true, largest)
        tolerances.assert_no_worse(mine, torchs, true, allowed)


@pytest.mark.skipif(device_of("cuda") != "cpu", reason="a GPU does not say how a kernel was launched")
@pytest.mark.parametrize("backend", CUDA)
@pytest.mark.parametrize(
    ("k", "size", "blocks"),
    [(5, 16, 1), (50, 16, 2), (121, 16, 4), (50, 64, 2), (121, 64, 4), (3, 16, 0), (5, 15, 0), (121, 260, 0)],
)
def test_layouts_are_reached(backend: str, k: int, size: int, blocks: int) -> None:
    """Check that the sizes of this file use clusters of 1 to 4 blocks, small and large, and that others fall back."""
    kernels = NATIVE[backend].kernels  # type: ignore[attr-defined]
    inputs = [t.float() for t in bernoulli(k, 6, size, torch.Generator().manual_seed(0))]
    kernels.launches()
    with_gradients(iw.bernoulli_iwae_loss, inputs, backend)
    used = [launch[1] for launch in kernels.launches()]
    assert max(used) == blocks
    assert len(used) == (2 if blocks else len(used))  # the loss with its gradients, and the sum over observations


@pytest.mark.parametrize("backend", CUDA)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_special_weights(backend: str, dtype: torch.dtype) -> None:
    """Test weights of zero, a column of them, a NaN, and logits so large that log-densities overflow."""
    value, logits, log_ratio = bernoulli(9, 8, 16, torch.Generator().manual_seed(1))
    log_ratio[2] = log_ratio[:, 1] = -math.inf
    logits[4, 2, 3] = 3e38
    logits[:, 3, :] = -3e38
    log_ratio[5, 4] = math.nan
    inputs = [value.float(), logits.to(dtype), log_ratio.float()]
    found = with_gradients(iw.bernoulli_iwae_loss, inputs, backend, reduction="none")
    exact = with_gradients(iw.bernoulli_iwae_loss, [t.double() for t in inputs], "reference", reduction="none")
    for observations in ((0, 1, 2, 5, 6, 7), (4,)):  # not 3, where -3e38 leaves no digit of the rest
        chosen = [t[..., observations] if t.dim() < 3 else t[:, observations] for t in found]
        expected = [t[..., observations] if t.dim() < 3 else t[:, observations] for t in exact]
        assert_close(chosen, expected, 1e-5 if dtype == torch.float32 else 1e-2)


@pytest.mark.parametrize("backend", CUDA)
def test_parameters_that_are_broadcast(backend: str) -> None:
    """Test a standard deviation per feature, as one number, and per observation as one number; and observations that
    differ between samples."""
    value, mean, log_std, log_ratio = (t.float() for t in gaussian(6, 5, 8, torch.Generator().manual_seed(2)))
    for scale in (log_std[0, 0], log_std[0, 0, :1], log_std[0, :, :1], log_std[:, :, :1], log_std[:, :1]):
        for seen in (value, value + mean):
            options = {"reduction": "none"}
            found = with_gradients(iw.gaussian_iwae_loss, [seen, mean, scale, log_ratio], backend, **options)
            doubles = [t.double() for t in (seen, mean, scale, log_ratio)]
            assert_close(found, with_gradients(iw.gaussian_iwae_loss, doubles, "reference", **options), 1e-5)


@pytest.mark.parametrize("backend", CUDA)
def test_strides(backend: str) -> None:
    """Test logits whose rows are apart, in a different order of axes, and observations on two axes."""
    generator = torch.Generator().manual_seed(3)
    value, logits, log_ratio = (t.float() for t in bernoulli(8, 6, 12, generator))
    wide = torch.randn(6, 8, 20, generator=generator)[..., 4:16].transpose(0, 1)
    for own in (logits, wide, logits.transpose(0, 1).contiguous().transpose(0, 1), logits[:, :1].expand(8, 6, 12)):
        found = with_gradients(iw.bernoulli_iwae_loss, [value, own, log_ratio], backend)
        exact = with_gradients(iw.bernoulli_iwae_loss, [t.double() for t in (value, own, log_ratio)], "reference")
        assert_close(found, exact, 1e-5)
    two = [value.reshape(2, 3, 12), logits.reshape(8, 2, 3, 12).transpose(1, 2), log_ratio.reshape(8, 3, 2)]
    two[0] = two[0].transpose(0, 1)
    exact = with_gradients(iw.bernoulli_iwae_loss, [t.double() for t in two], "reference", reduction="none")
    assert_close(with_gradients(iw.bernoulli_iwae_loss, two, backend, reduction="none"), exact, 1e-5)


@pytest.mark.parametrize("backend", CUDA)
@pytest.mark.parametrize("incoming", [0.0, 0.5, 3.0])
def test_gradients_of_bfloat16_are_rounded_at_most_twice(backend: str, incoming: float) -> None:
    value, logits, log_ratio = bernoulli(5, 4, 16, torch.Generator().manual_seed(4))
    inputs = [value.float(), logits.bfloat16(), log_ratio.float()]
    leaf = inputs[1].requires_grad_()
    loss = run(iw.bernoulli_iwae_loss, *inputs, backend=backend)
    (found,) = torch.autograd.grad(incoming * loss, leaf)
    assert found.dtype == torch.bfloat16
    exact = with_gradients(iw.bernoulli_iwae_loss, [t.detach().double() for t in inputs], "reference")[1] * incoming
    assert ((found.double() - exact).abs() <= 2.05 * 2.0**-8 * exact.abs() + 1e-38).all()


@pytest.mark.parametrize("backend", CUDA)
def test_gradients_may_replace_the_logits(backend: str) -> None:
    """Check that the result does not depend on where gradients are written: a linear layer writes them in place."""
    generator = torch.Generator().manual_seed(5)
    hidden, weight, bias = (torch.randn(shape, generator=generator) for shape in ((8, 5, 6), (16, 6), (16,)))
    value, _, log_ratio = (t.float() for t in bernoulli(8, 5, 16, generator))
    leaves = [t.requires_grad_() for t in (hidden, weight, bias)]
    loss = run(iw.linear_bernoulli_iwae_loss, value, *leaves, log_ratio, backend=backend)
    found = torch.autograd.grad(loss, leaves)
    doubles = [t.detach().double().requires_grad_() for t in leaves]
    exact = iw.bernoulli_iwae_loss(value.double(), doubles[0] @ doubles[1].T + doubles[2], log_ratio.double())
    assert_close([loss.detach(), *found], [exact.detach(), *torch.autograd.grad(exact, doubles)], 1e-5)
