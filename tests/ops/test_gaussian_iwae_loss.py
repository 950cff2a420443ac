from __future__ import annotations

import pytest
import torch
from devices import ALL, run
from loss_contract import FusedLossContract
from torch import Tensor

import iwae_fast as iw
from iwae_fast.reference import LOG_2PI


class TestGaussianIWAELoss(FusedLossContract):
    names = ("value", "mean", "log_std", "log_ratio")

    @staticmethod
    def call(
        *inputs: Tensor, mask: Tensor | None = None, reduction: str = "mean", backend: str | None = None
    ) -> Tensor:
        return run(iw.gaussian_iwae_loss, *inputs, mask=mask, reduction=reduction, backend=backend)

    @staticmethod
    def log_prob(*inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        value, mean, log_std = inputs
        terms = torch.distributions.Normal(mean, log_std.exp(), validate_args=False).log_prob(value)
        return (terms if mask is None else torch.where(mask, terms, 0.0)).sum(-1)

    @staticmethod
    def example() -> list[Tensor]:
        # log_std (D,): one learned scale a pixel
        return [torch.randn(*shape, dtype=torch.float64) for shape in ((4, 11), (3, 4, 11), (11,), (3, 4))]


class TestGaussianIWAELossAtOnce(TestGaussianIWAELoss):
    """The contract where no gradient is summed over an axis, so that the forward pass computes all of them."""

    test_no_worse_than_torch_on_triton = None  # Triton has no such forward pass: this would be the same test again
    test_gradients_from_the_forward_pass = None  # its tensors are not those of example()

    @staticmethod
    def example() -> list[Tensor]:
        return [torch.randn(*shape, dtype=torch.float64) for shape in ((3, 4, 11), (3, 4, 11), (3, 4, 11), (3, 4))]


@pytest.mark.parametrize("backend", ALL)
@pytest.mark.parametrize("at_once", [False, True])
@pytest.mark.parametrize("log_std", [-800.0, -100.0, 100.0, 800.0])
def test_values_that_equal_their_means_at_every_scale(log_std: float, at_once: bool, backend: str) -> None:
    """Test the loss and its gradients, computed in the forward or backward pass; one value differs from its mean."""
    value, log_ratio = torch.rand(2, 5), torch.randn(3, 2)
    mean = value.repeat(3, 1, 1)
    if log_std < 0.0:
        mean[1, 0, 2] += 1.0
        log_ratio[1, 0] = -torch.inf  # as such a sample weighs, on every scale
    leaves = [mean, torch.full((3, 2, 5), log_std), log_ratio.clone()]
    leaves = [t.requires_grad_() for t in leaves]
    value.requires_grad_(not at_once)
    loss = run(iw.gaussian_iwae_loss, value, *leaves, reduction="none", backend=backend)
    log_weights = log_ratio - 5 * (log_std + LOG_2PI / 2)
    torch.testing.assert_close(loss, -iw.log_mean_exp(log_weights, backend="reference"))
    grad_mean, grad_log_std, grad_ratio = torch.autograd.grad(loss.sum(), leaves, retain_graph=not at_once)
    weights = torch.softmax(log_weights, 0)
    torch.testing.assert_close(grad_ratio, -weights)
    torch.testing.assert_close(grad_log_std, weights[..., None].expand(3, 2, 5))
    assert (grad_mean == 0).all()
    if not at_once:
        assert (torch.autograd.grad(loss.sum(), value)[0] == 0).all()
