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


def test_gradient_of_logits_is_the_weighted_residual() -> None:
    """d loss / d logits = -(1/B) w~ (x - sigmoid(l)), Burda et al. 2016."""
    value, logits, log_ratio = (t.requires_grad_() for t in TestBernoulliIWAELoss.example())
    iw.bernoulli_iwae_loss(value, logits, log_ratio).backward()
    weights = iw.normalized_weights(iw.bernoulli_log_prob(value, logits) + log_ratio)
    expected = -weights[..., None] * (value - logits.sigmoid()) / 4
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_broadcasting_the_observations_copies_nothing(backend: str) -> None:
    """Beside the loss only the weights (k, B) are kept: no tensor of size k B D is made in the forward pass."""
    k, batch, features = 20, 5, 4096
    logits = torch.randn(k, batch, features)
    value, log_ratio = torch.rand(batch, features), torch.randn(k, batch)
    with torch.profiler.profile(profile_memory=True) as profile:
        run(iw.bernoulli_iwae_loss, value, logits, log_ratio, backend=backend)
    allocated = sum(max(0, event.cpu_memory_usage) for event in profile.events())
    assert 0 < allocated < 16 * 4 * k * batch
