from __future__ import annotations

from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from devices import run
from loss_contract import FusedLossContract
from torch import Tensor

import iwae_fast as iw


def log_prob(
    value: Tensor, log_mean: Tensor, log_theta: Tensor, *dropout: Tensor, mask: Tensor | None = None
) -> Tensor:
    """Compute the likelihood from torch's log-gammas, which is good enough for moderate parameters."""
    x, t = value.abs(), log_theta.exp()
    log_total = torch.logaddexp(log_mean, log_theta)
    terms = torch.lgamma(x + t) - torch.lgamma(t) - torch.lgamma(x + 1.0)
    terms = terms + x * (log_mean - log_total) + t * (log_theta - log_total)
    for logits in dropout:
        zero = torch.logaddexp(F.logsigmoid(logits), terms + F.logsigmoid(-logits))
        terms = torch.where(x == 0.0, zero, terms + F.logsigmoid(-logits))
    return (terms if mask is None else torch.where(mask, terms, 0.0)).sum(-1)


class CountLossContract(FusedLossContract):
    """The contract, where the numbers drawn for the counts are replaced by their absolute values."""

    op: ClassVar[Any]
    log_prob = staticmethod(log_prob)

    @classmethod
    def call(  # type: ignore[override]
        cls,
        value: Tensor,
        *others: Tensor,
        mask: Tensor | None = None,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> Tensor:
        count = (
            value.abs() if isinstance(value, Tensor) and value.is_floating_point() and not value.is_sparse else value
        )
        return run(cls.op, count, *others, mask=mask, reduction=reduction, backend=backend)

    @staticmethod
    def way_on_cuda(clusters: bool, many_observations: bool) -> str:
        return "apart"

    def test_integers_are_refused(self) -> None:
        for index, name in enumerate(self.names[1:], 1):
            inputs: list[Any] = self.example()
            inputs[index] = inputs[index].long()
            with pytest.raises(TypeError, match=f"{name} must be float32.*int64"):
                type(self).op(*inputs)
        value, *others = self.example()
        whole = type(self).op(value.round(), *others)
        assert torch.equal(type(self).op(value.round().long(), *others), whole)


class TestNegativeBinomialIWAELoss(CountLossContract):
    names = ("value", "log_mean", "log_theta", "log_ratio")
    op = staticmethod(iw.negative_binomial_iwae_loss)

    @staticmethod
    def example() -> list[Tensor]:
        # log_theta (D,): the dispersion of each gene
        value = torch.rand(4, 11, dtype=torch.float64).mul(5.0).add(0.1)
        return [value, *(torch.randn(*shape, dtype=torch.float64) for shape in ((3, 4, 11), (11,), (3, 4)))]


class TestZeroInflatedNegativeBinomialIWAELoss(CountLossContract):
    names = ("value", "log_mean", "log_theta", "dropout_logits", "log_ratio")
    op = staticmethod(iw.zero_inflated_negative_binomial_iwae_loss)

    @staticmethod
    def example() -> list[Tensor]:
        value = torch.rand(4, 11, dtype=torch.float64).mul(5.0).add(0.1)
        shapes = ((3, 4, 11), (3, 4, 11), (3, 4, 11), (3, 4))
        return [value, *(torch.randn(*shape, dtype=torch.float64) for shape in shapes)]
