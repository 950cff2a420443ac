from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from devices import BACKENDS, run
from loss_contract import FusedLossContract
from torch import Tensor

import iwae_fast as iw


class TestBernoulliIWAELoss(FusedLossContract):
    names = ("value", "logits", "log_ratio")

    @staticmethod
    def call(
        *inputs: Tensor, mask: Tensor | None = None, reduction: str = "mean", backend: str | None = None
    ) -> Tensor:
        return run(iw.bernoulli_iwae_loss, *inputs, mask=mask, reduction=reduction, backend=backend)

    @staticmethod
    def log_prob(*inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        value, logits = inputs
        # value * logits - softplus by hand: torch's loss has no gradient for its target
        terms = value * logits + F.logsigmoid(-logits)
        return (terms if mask is None else torch.where(mask, terms, 0.0)).sum(-1)

    @staticmethod
    def example() -> list[Tensor]:
        shapes = ((4, 11), (3, 4, 11), (3, 4))
        value, logits, log_ratio = (torch.randn(*shape, dtype=torch.float64) for shape in shapes)
        return [value.sigmoid(), logits, log_ratio]


class TestBernoulliIWAELossAtOnce(TestBernoulliIWAELoss):
    """The contract where no gradient is summed over an axis, so that the forward pass computes all of them."""

    test_no_worse_than_torch_on_triton = None  # Triton has no such forward pass: this would be the same test again
    test_gradients_from_the_forward_pass = None  # its tensors are not those of example()

    @staticmethod
    def example() -> list[Tensor]:
        value, logits, log_ratio = TestBernoulliIWAELoss.example()
        return [torch.stack([value, value.sqrt(), value.square()]), logits, log_ratio]


@pytest.mark.parametrize("reduction", ["mean", "none"])
@pytest.mark.parametrize("incoming", [1.0, 2.5])
def test_gradients_made_at_once_survive_what_is_done_to_them(reduction: str, incoming: float) -> None:
    """Check that the first backward pass returns the saved gradients, or copies if the graph is kept."""
    value, logits, log_ratio = (t.detach() for t in TestBernoulliIWAELoss.example())
    logits.requires_grad_()
    exact = torch.autograd.grad(
        iw.bernoulli_iwae_loss(value, logits, log_ratio, reduction=reduction, backend="reference").sum(), logits
    )[0]
    loss = incoming * iw.bernoulli_iwae_loss(value, logits, log_ratio, reduction=reduction).sum()
    for _ in range(2):  # what one pass returned may be written to
        torch.autograd.grad(loss, logits, retain_graph=True)[0].zero_()
    for passes in (1, 2, 3):
        loss.backward(retain_graph=True)
        assert logits.grad is not None
        torch.testing.assert_close(logits.grad, passes * incoming * exact)
    logits.grad.zero_()
    loss.backward()
    torch.testing.assert_close(logits.grad, incoming * exact)
    with pytest.raises(RuntimeError, match="second time"):
        loss.backward()


@pytest.mark.parametrize("features", [1, 5, 992, 1000])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_at_once_are_those_of_two_passes(features: int, masked: bool) -> None:
    """Compare one pass with two, for whole vectors, ends of rows and several tiles."""
    value, logits, log_ratio = torch.rand(3, features), 4 * torch.randn(5, 3, features), torch.randn(5, 3)
    mask = torch.rand(features) < 0.7 if masked else None
    logits.requires_grad_()
    at_once = iw.bernoulli_iwae_loss(value, logits, log_ratio, mask)
    two_passes = iw.bernoulli_iwae_loss(value.clone().requires_grad_(), logits, log_ratio, mask)
    assert at_once == two_passes
    ours, theirs = (torch.autograd.grad(loss, logits)[0] for loss in (at_once, two_passes))
    torch.testing.assert_close(ours, theirs, rtol=3e-7, atol=0)


def test_gradient_of_logits_is_the_weighted_residual() -> None:
    """Compare with d loss / d logits = -(1/B) w~ (x - sigmoid(l)) (Burda et al. 2016)."""
    value, logits, log_ratio = (t.requires_grad_() for t in TestBernoulliIWAELoss.example())
    iw.bernoulli_iwae_loss(value, logits, log_ratio).backward()
    weights = iw.normalized_weights(iw.bernoulli_log_prob(value, logits) + log_ratio)
    expected = -weights[..., None] * (value - logits.sigmoid()) / 4
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_broadcasting_the_observations_copies_nothing(backend: str) -> None:
    """Check that the forward pass allocates the loss and the weights (k, B), and no tensor of size k B D."""
    k, batch, features = 20, 5, 4096
    logits = torch.randn(k, batch, features)
    value, log_ratio = torch.rand(batch, features), torch.randn(k, batch)
    with torch.profiler.profile(profile_memory=True) as profile:
        run(iw.bernoulli_iwae_loss, value, logits, log_ratio, backend=backend)
    allocated = sum(max(0, event.cpu_memory_usage) for event in profile.events())
    assert 0 < allocated < 16 * 4 * k * batch
