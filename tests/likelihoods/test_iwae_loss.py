"""Likelihood.iwae_loss: fused where a backend offers it, and the same as log_prob and log_mean_exp composed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import iwae_fast as iw
from iwae_fast.backends import BEST, NATIVE, REFERENCE
from iwae_fast.bounds import IWAE
from iwae_fast.likelihoods import LIKELIHOODS
from iwae_fast.likelihoods.base import Likelihood
from iwae_fast.reference import DENSITIES

K, B, D = 5, 3, 7
FUSED = {name: density for name in LIKELIHOODS if (density := name.replace("-", "_")) in DENSITIES}
"""The likelihoods that are a density of the package, with its name."""


def arguments(name: str) -> tuple[Tensor, Any, Tensor]:
    """Return observations, a decoder's output for K B rows and a log-ratio; the last two require gradients."""
    value = torch.rand(B, D, dtype=torch.float64).round()
    sizes = LIKELIHOODS[name]().output_sizes(D).values()
    parts = [torch.randn(K * B, size, dtype=torch.float64).requires_grad_() for size in sizes]
    log_ratio = torch.randn(K, B, dtype=torch.float64).requires_grad_()
    return value, parts[0] if len(parts) == 1 else tuple(parts), log_ratio


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", FUSED)
def test_fused_is_composed(name: str, masked: bool, reduction: str) -> None:
    likelihood = LIKELIHOODS[name]()
    value, output, log_ratio = arguments(name)
    mask = torch.rand(B, D) < 0.7 if masked else None
    leaves = [*(output if isinstance(output, tuple) else [output]), log_ratio]
    results, gradients = [], []
    for method in (type(likelihood).iwae_loss, Likelihood.iwae_loss):
        result = method(likelihood, value, output, log_ratio, mask, reduction)
        weights = result.weights if result.normalized else result.weights.softmax(0)
        assert not result.bound.requires_grad
        assert not weights.requires_grad
        results.append((result.loss.detach(), result.bound, weights))
        weighed = (result.loss * torch.arange(1.0, 1.0 + result.loss.numel())).sum()
        gradients.append(torch.autograd.grad(weighed, leaves))
    torch.testing.assert_close(*results)
    torch.testing.assert_close(*gradients)


@pytest.mark.skipif(BEST["cpu"] == REFERENCE, reason="the C++ extension is not there")
@pytest.mark.parametrize("name", FUSED)
def test_objectives_with_any_decoder_run_the_fused_loss(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Network(nn.Module):
        def __init__(self, inputs: int, outputs: int, parts: int) -> None:
            super().__init__()
            self.linear, self.parts = nn.Linear(inputs, outputs * parts), parts

        def forward(self, x: Tensor) -> Any:
            output = self.linear(x)
            return output if self.parts == 1 else output.chunk(self.parts, -1)

    decoder = Network(2, D, len(LIKELIHOODS[name]().outputs))
    model = iw.models.VAE(Network(D, 2, 2), decoder, name, latent_dim=2)
    used: list[str] = []
    original = NATIVE["cpu"].iwae_loss_and_gradients
    monkeypatch.setattr(NATIVE["cpu"], "iwae_loss_and_gradients", lambda n, *a: used.append(n) or original(n, *a))
    x = torch.rand(B, D).round()
    iw.Objective(IWAE(), num_samples=K)(model, x).backward()
    assert used == [FUSED[name]]
    with torch.no_grad():  # no gradient is made where none is wanted
        iw.Objective(IWAE(), num_samples=K)(model, x)
    assert used == [FUSED[name]]


def test_a_log_prob_of_a_subclass_is_what_counts() -> None:
    class Half(iw.likelihoods.Bernoulli):
        def log_prob(self, *arguments: Any, **options: Any) -> Tensor:
            return 0.5 * super().log_prob(*arguments, **options)

    value, logits, log_ratio = arguments("bernoulli")
    expected = iw.iwae_loss(Half().log_prob(value, logits, K) + log_ratio)
    torch.testing.assert_close(Half().iwae_loss(value, logits, log_ratio).loss, expected)


class Second(IWAE):
    """A bound that redefines what it inherits makes none of the claims of its parent."""

    def __call__(self, log_weights: Tensor) -> Tensor:
        return super().__call__(log_weights) - 1.0


def test_claims_of_a_bound_are_not_inherited_by_another_one() -> None:
    assert IWAE().is_log_mean_exp
    assert not Second().is_log_mean_exp
    assert not Second().is_lower_bound
    assert type("Renamed", (IWAE,), {})().is_log_mean_exp
    assert iw.bounds.VRIWAE(0.3).is_lower_bound
    assert not iw.bounds.VRIWAE(-1.0).is_lower_bound
    assert not iw.bounds.CUBO(2).is_lower_bound
