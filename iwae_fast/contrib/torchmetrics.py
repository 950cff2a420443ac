"""The negative log-likelihood as a metric of torchmetrics, for Lightning and other training loops."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from .. import checks
from ..evaluate import log_likelihood
from ..evaluate.sources import Source
from ..models import LatentVariableModel

try:
    from torchmetrics import Metric
except ModuleNotFoundError as _error:
    raise ModuleNotFoundError(
        f"iwae_fast.contrib.torchmetrics needs {_error.name}, which is not installed: pip install torchmetrics",
        name=_error.name,
    ) from _error

TOO_HIGH = 0.7
"""The k-hat above which an estimate needs more samples."""


class NegativeLogLikelihood(Metric):
    """The mean of -log p(x) over observations, in nats, by importance sampling.

    ``metric.update(model, x)`` evaluates a batch by :func:`iwae_fast.evaluate.log_likelihood`, which takes any model.
    The state is sums and counts over observations, in float64. Ranks add theirs, so the result is the mean over all
    observations of all ranks, however many each of them has.

    The noise of an observation is a function of the seed and its index. By default these are the indices on this rank,
    far apart from those of other ranks. With ``observation_offset`` as in one process, the result is that of one
    process up to rounding.

    Args:
        num_samples: k; the papers use 5000.
        seed: an int in [0, 2^63), the same for every epoch.
        chunk_size: as for :func:`iwae_fast.evaluate.log_likelihood`.
        detailed: if True, :meth:`compute` returns a dict of scalars: "nll"; "std_error", that of the mean over the
            observations; "pareto_k_too_high" and "pareto_k_undefined", the shares of observations whose k-hat is above
            0.7, or NaN.
        settings: those of ``torchmetrics.Metric``, such as ``sync_on_compute``.

    Raises:
        TypeError, ValueError: an argument is invalid.
    """

    is_differentiable = False
    higher_is_better = False
    full_state_update = False

    total: Tensor
    total_square: Tensor
    count: Tensor
    too_high: Tensor
    undefined: Tensor

    def __init__(
        self,
        num_samples: int = 5000,
        seed: int = 0,
        chunk_size: int | None = None,
        *,
        detailed: bool = False,
        **settings: Any,
    ) -> None:
        super().__init__(**settings)
        self.num_samples: int = checks.positive("num_samples", num_samples)
        self.seed: int = checks.not_negative("seed", seed)
        self.chunk_size = chunk_size
        self.detailed = detailed
        self._earlier = self._seen = 0
        for name in ("total", "total_square", "count", "too_high", "undefined"):
            self.add_state(name, default=torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(
        self,
        model: LatentVariableModel | Source | Callable[..., Tensor],
        x: Tensor,
        *,
        context: Sequence[Tensor] = (),
        mask: Tensor | None = None,
        observation_offset: int | None = None,
    ) -> None:
        """Evaluate a batch, and add its observations.

        Args:
            model, x, context, mask: as for :func:`iwae_fast.evaluate.log_likelihood`; x is a tensor (B, ...).
            observation_offset: the index of the first observation for the noise; if None, the number of observations
                that this rank has seen since the last reset, plus its rank times 2^32 / (number of ranks).
        """
        if observation_offset is None:
            observation_offset = _first_of_rank() + self._earlier + self._seen
        found = log_likelihood(
            model,
            x,
            self.num_samples,
            self.chunk_size,
            self.seed,
            context=context,
            mask=mask,
            observation_offset=observation_offset,
        )
        nll = -found.value.to(self.total.device)
        pareto_k = found.pareto_k.to(self.total.device)
        self._seen += len(nll)
        self.total += nll.sum()
        self.total_square += nll.square().sum()
        self.count += len(nll)
        self.too_high += (pareto_k > TOO_HIGH).sum()
        self.undefined += pareto_k.isnan().sum()

    def compute(self) -> Tensor | dict[str, Tensor]:
        """Return the mean over all observations of all ranks, a float64 scalar; NaN without observations."""
        mean = self.total / self.count
        if not self.detailed:
            return mean
        square = (self.total_square - self.total * mean).clamp(min=0.0) / (self.count - 1.0)
        return {
            "nll": mean,
            "std_error": torch.where(self.count > 1, (square / self.count).sqrt(), math.nan),
            "pareto_k_too_high": self.too_high / self.count,
            "pareto_k_undefined": self.undefined / self.count,
        }

    def forward(self, *arguments: Any, **options: Any) -> Any:
        """Evaluate a batch, add its observations, and return the result of this batch alone."""
        self._earlier = self._seen  # torchmetrics resets the metric before it evaluates the batch
        try:
            return super().forward(*arguments, **options)
        finally:
            self._seen += self._earlier
            self._earlier = 0

    def reset(self) -> None:
        """Forget all observations."""
        super().reset()
        self._seen = 0


def _first_of_rank() -> int:
    """Return the first index of this rank's observations, for noise that ranks do not share."""
    if not (dist.is_available() and dist.is_initialized()):
        return 0
    return dist.get_rank() * (2**32 // dist.get_world_size())
