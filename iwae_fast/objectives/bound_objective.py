"""An objective and its model as one module, for tools that wrap or train modules."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from ..deprecation import context_of
from ..models import LatentVariableModel
from .ranks import ONE_PROCESS, Ranks

if TYPE_CHECKING:
    from .objective import Objective


class _Bound(nn.Module):
    """An objective and its model as one module."""

    def __init__(self, objective: Objective, model: LatentVariableModel, ranks: Ranks = ONE_PROCESS) -> None:
        super().__init__()
        self.objective = objective
        self.model = model
        self.ranks = ranks

    def _loss(self, x: Tensor, context: Sequence[Tensor], **options: Any) -> Tensor:
        return self.objective(self.model, x, context=context, ranks=self.ranks, **options)


class BoundObjective(_Bound):
    """An objective and its model as one module whose ``forward`` returns the loss."""

    def forward(
        self,
        x: Tensor,
        *positional: Tensor,
        context: Sequence[Tensor] = (),
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        observation_offset: int | None = None,
        step: int | None = None,
    ) -> Tensor:
        context = context_of(positional, context)
        return self._loss(x, context, mask=mask, seed=seed, observation_offset=observation_offset, step=step)


class DictObjective(_Bound):
    """An objective and its model as one module, for trainers that pass batches by keyword and read ``loss`` by name."""

    def forward(
        self,
        x: Tensor,
        context: Tensor | Sequence[Tensor] = (),
        mask: Tensor | None = None,
        seed: int | Tensor | None = None,
        observation_offset: int | None = None,
        step: int | None = None,
        return_loss: bool = True,
    ) -> dict[str, Tensor]:
        """Return {"loss": minus the bound in nats}.

        Args:
            x, mask, seed, observation_offset, step: as in :class:`Objective`.
            context: one tensor or several, (B, ...) each, further inputs of encoder and decoder.
            return_loss: must be True. Hugging Face's Trainer checks for this argument to decide whether a model without
                labels returns a loss in evaluation.
        """
        if not return_loss:
            raise ValueError("return_loss must be True: the module returns nothing but the loss")
        context = (context,) if isinstance(context, Tensor) else tuple(context)
        loss = self._loss(x, context, mask=mask, seed=seed, observation_offset=observation_offset, step=step)
        return {"loss": loss}
