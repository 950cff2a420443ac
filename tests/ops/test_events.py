"""Tests of observations with several feature axes, such as images."""

from __future__ import annotations

import re
from collections.abc import Callable

import density_ops
import pytest
import torch
from torch import Tensor, nn

import iwae_fast as iw

K, BATCH, EVENT = 3, 4, (2, 5, 6)


def shapes(*parameters: tuple[int, ...]) -> list[tuple[int, ...]]:
    return [(BATCH, *EVENT), *((K, BATCH, *shape) for shape in parameters)]


DENSITIES: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    **{name: (op.function, shapes(*[EVENT] * (len(op.parameters) - 1))) for name, op in density_ops.LOG_PROBS.items()},
    "a scale for each channel": (iw.gaussian_log_prob, [*shapes(EVENT), (2, 1, 1)]),
    "a scale for each row of each sample": (iw.gaussian_log_prob, [*shapes(EVENT), (K, BATCH, 1, 5, 1)]),
    "one scale": (iw.gaussian_log_prob, [*shapes(EVENT), (1,)]),
    "a mean image": (iw.gaussian_log_prob, [(BATCH, 1, *EVENT[1:]), EVENT[1:], (K, 1, *EVENT)]),
}
LOSSES: dict[str, tuple[Callable[..., Tensor], list[tuple[int, ...]]]] = {
    **{
        name: (op.function, [*shapes(*[EVENT] * (len(op.parameters) - 1)), (K, BATCH)])
        for name, op in density_ops.LOSSES.items()
    },
    "loss, a scale for each channel": (iw.gaussian_iwae_loss, [*shapes(EVENT, (2, 1, 1)), (K, BATCH)]),
    "loss, a scalar log-ratio": (iw.bernoulli_iwae_loss, [*shapes(EVENT), ()]),
}
CASES = {**DENSITIES, **LOSSES}


def leaves(shapes: list[tuple[int, ...]], dtype: torch.dtype = torch.float64) -> list[Tensor]:
    return [torch.rand(shape).to(dtype).requires_grad_() for shape in shapes]


def in_one_axis(tensor: Tensor, event: tuple[int, ...]) -> Tensor:
    """Compute the result from explicit copies of all tensors in the shape of the event."""
    if tensor.dim() < len(event):
        tensor = tensor.reshape(*(1,) * (len(event) - tensor.dim()), *tensor.shape)
    return tensor.expand(*tensor.shape[: -len(event)], *event).reshape(*tensor.shape[: -len(event)], -1)


@pytest.mark.parametrize("backend", [None, "reference"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", CASES)
def test_values_and_gradients_are_those_of_one_axis(name: str, masked: bool, backend: str | None) -> None:
    call, inputs = CASES[name]
    tensors = leaves(inputs)
    mask = torch.rand(BATCH, 1, *EVENT[1:]) > 0.3 if masked else None
    parameters = len(inputs) - (name in LOSSES)
    flat = [*(in_one_axis(t, EVENT) for t in tensors[:parameters]), *tensors[parameters:]]
    flat_mask = None if mask is None else in_one_axis(mask, EVENT)
    ours = call(*tensors, mask=mask, event_dims=3, backend=backend)
    theirs = call(*flat, mask=flat_mask, backend="reference")
    torch.testing.assert_close(ours, theirs)
    weights = torch.rand_like(ours)
    torch.testing.assert_close(
        torch.autograd.grad(ours, tensors, weights), torch.autograd.grad(theirs, tensors, weights)
    )


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_as_many_axes_as_are_said(dims: int) -> None:
    value, logits = torch.rand(BATCH, *EVENT), torch.randn(K, BATCH, *EVENT)
    found = iw.bernoulli_log_prob(value, logits, event_dims=dims)
    expected = torch.distributions.Bernoulli(logits=logits, validate_args=False).log_prob(value)
    torch.testing.assert_close(found, expected.sum(tuple(range(-dims, 0))))


def test_half_precision_sums_a_broadcast_gradient_before_it_rounds() -> None:
    value, mean = torch.randn(64, 4, 8, 8), torch.randn(64, 4, 8, 8)
    log_std = torch.zeros(4, 1, 1, dtype=torch.bfloat16, requires_grad=True)
    exact = log_std.detach().double().requires_grad_()
    for scale in (log_std, exact):
        iw.gaussian_log_prob(value, mean, scale, event_dims=3).sum().backward()
    assert exact.grad is not None
    torch.testing.assert_close(log_std.grad, exact.grad.bfloat16(), rtol=0, atol=0)


def test_images_are_read_where_they_are() -> None:
    """Check that the forward pass copies neither the logits nor an expanded image."""
    value, logits = torch.rand(1, 3, 32, 32).expand(8, 3, 32, 32), torch.randn(20, 8, 3, 32, 32)
    log_ratio = torch.randn(20, 8)
    with torch.profiler.profile(profile_memory=True) as profile:
        iw.bernoulli_iwae_loss(value, logits, log_ratio, event_dims=3)
    most = max((event.cpu_memory_usage for event in profile.events() if event.name.startswith("aten::")), default=0)
    assert most < 8 * 3 * 32 * 32 * 4


def test_a_convolutional_model_of_ones_own_by_the_functions() -> None:
    """Compare the bound with that of the same model in the package."""
    decoder = nn.Sequential(nn.Linear(4, 32), nn.Unflatten(1, (8, 2, 2)), nn.ConvTranspose2d(8, 1, 4, 2, 1)).double()
    encoder = nn.Sequential(nn.Conv2d(1, 4, 3, 2, 1), nn.Flatten(), nn.Linear(16, 8)).double()
    x = torch.rand(5, 1, 4, 4).double()

    class Encoder(nn.Module):
        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            mean, log_std = encoder(x).chunk(2, -1)
            return mean, log_std

    mean, log_std = encoder(x).chunk(2, -1)
    z, log_ratio = iw.sample_gaussian(mean, log_std, num_samples=7, seed=3)
    logits = decoder(z.flatten(0, 1)).unflatten(0, z.shape[:2])
    loss = iw.bernoulli_iwae_loss(x, logits, log_ratio, event_dims=3)
    model = iw.models.VAE(Encoder(), decoder)
    torch.testing.assert_close(loss, iw.Objective(iw.bounds.IWAE(), num_samples=7)(model, x, seed=3))


def test_images_are_not_rows_of_observations_by_chance() -> None:
    """Refuse images with k = B = H, whose rows would otherwise be taken for observations."""
    images, logits, log_ratio = torch.rand(6, 6, 6).round(), torch.randn(6, 6, 6, 6), torch.randn(6, 6)
    message = (
        "log_ratio (6, 6) must have the axes of the likelihood (k, ...) (6, 6, 6), each of its size or 1; where the "
        "last 2 axes of value, logits are features, as of images, pass event_dims=2"
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        iw.bernoulli_iwae_loss(images, logits, log_ratio)
    log_weights = torch.distributions.Bernoulli(logits=logits).log_prob(images).sum((-2, -1)) + log_ratio
    torch.testing.assert_close(
        iw.bernoulli_iwae_loss(images, logits, log_ratio, event_dims=2), iw.iwae_loss(log_weights)
    )
    with pytest.raises(ValueError, match="the last 3 axes of value, logits are features.* pass event_dims=3"):
        iw.bernoulli_iwae_loss(torch.rand(20, 1, 28, 28), torch.randn(5, 20, 1, 28, 28), torch.randn(5, 20))
    with pytest.raises(ValueError, match="the last 2 axes of value, mean, log_std are features"):
        iw.gaussian_iwae_loss(images, logits, torch.zeros(1), log_ratio)


@pytest.mark.parametrize(
    ("event_dims", "error", "message"),
    [
        (0, ValueError, r"event_dims must be from 1 to 3 for data \(2, 3, 4\), got 0"),
        (4, ValueError, "event_dims must be from 1 to 3"),
        (2.0, TypeError, "event_dims must be an int, got float"),
    ],
)
def test_event_dims_that_are_refused(event_dims: object, error: type[Exception], message: str) -> None:
    value, logits = torch.rand(3, 4), torch.randn(2, 3, 4)
    with pytest.raises(error, match=message):
        iw.bernoulli_log_prob(value, logits, event_dims=event_dims)  # type: ignore[arg-type]
    with pytest.raises(error, match=message):
        iw.bernoulli_iwae_loss(value, logits, torch.zeros(2, 3), event_dims=event_dims)  # type: ignore[arg-type]


def test_shapes_that_do_not_fit_are_named_as_they_came() -> None:
    with pytest.raises(ValueError, match=r"value \(4, 2, 5, 6\), logits \(3, 4, 60\)"):
        iw.bernoulli_log_prob(torch.rand(4, 2, 5, 6), torch.randn(3, 4, 60), event_dims=3)
    mask = torch.ones(7, 6, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"mask \(7, 6\).*data \(3, 4, 2, 5, 6\)"):
        iw.bernoulli_log_prob(torch.rand(4, 2, 5, 6), torch.randn(3, 4, 2, 5, 6), mask, event_dims=3)


def test_compiles_as_one_graph() -> None:
    torch._dynamo.reset()

    def loss(value: Tensor, logits: Tensor, log_std: Tensor, log_ratio: Tensor) -> Tensor:
        fused = iw.bernoulli_iwae_loss(value, logits, log_ratio, event_dims=3)
        return fused + iw.gaussian_log_prob(value, logits, log_std, event_dims=3).mean()

    inputs = leaves([*shapes(EVENT, (2, 1, 1)), (K, BATCH)], torch.float32)
    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    ours, theirs = compiled(*inputs), loss(*inputs)
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(torch.autograd.grad(ours, inputs), torch.autograd.grad(theirs, inputs))
