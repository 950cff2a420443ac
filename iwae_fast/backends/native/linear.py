"""Linear layers fused with the operations that follow them. The matrix products are torch's."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...checks import accumulation_dtype
from .. import tiled
from .densities import Densities
from .layers import products
from .losses import Losses


class Linear(Densities, Losses):
    """Linear layers on torch's matrix products and the extension's kernels."""

    def linear_bernoulli_log_prob(
        self, value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
    ) -> Tensor:
        return tiled.log_prob(self._likelihood(), value, hidden, weight, bias, mask)

    def linear_bernoulli_log_prob_backward(
        self,
        grad: Tensor,
        value: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        mask: Tensor | None,
        needs_grad: Sequence[bool],
    ) -> list[Tensor]:
        return tiled.log_prob_backward(self._likelihood(), grad, value, hidden, weight, bias, mask, needs_grad)

    def _likelihood(self) -> tiled.TileLikelihood:
        return tiled.TileLikelihood(
            lambda value, products, bias, mask: self.density(*_biased(value, products, bias), mask),
            lambda grad, value, logits, mask, needs: self.density_backward(
                "bernoulli", grad, (value, logits), mask, needs
            ),
        )

    def linear_bernoulli_log_prob_and_residual(
        self, value: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        logits = products(hidden, weight)  # overwritten by the residual
        log_prob = self.density(*_biased(value, logits, bias), mask, (None, logits))
        return log_prob, logits, log_prob.clone()

    def linear_bernoulli_iwae_loss(
        self,
        value: Tensor,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        log_ratio: Tensor,
        mask: Tensor | None,
        reduction: str,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        logits = products(hidden, weight)  # overwritten by their gradient
        bound = log_ratio.new_empty(log_ratio.shape[1:], dtype=accumulation_dtype(value, hidden, log_ratio))
        loss, weights = self.iwae_loss(
            *_biased(value, logits, bias), log_ratio, mask, reduction, saved_gradients=(None, logits), bound=bound
        )
        return loss, bound, weights, logits


def _biased(value: Tensor, products: Tensor, bias: Tensor | None) -> tuple[str, tuple[Tensor, ...]]:
    """Return the name and the parameters of the density of products, with the bias if there is one; the first two
    parameters are the same with and without."""
    return ("bernoulli", (value, products)) if bias is None else ("biased_bernoulli", (value, products, bias))
