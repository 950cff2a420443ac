"""Steps of Adam for many tensors at once."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from ...reference.adam import AdamExtras, AdamSettings, AdamTensors
from ..marshal import DTYPE_CODES, empty_squares, operand, pointer
from .base import Native


class AdamSteps(Native):
    """Adam on the extension's kernels."""

    def adam(self, tensors: AdamTensors, settings: AdamSettings, extras: AdamExtras, turns: Tensor) -> None:
        lr, *numbers = settings[:5]
        squares = extras.squares if settings.max_norm is not None else None
        first = tensors.parameters[0]
        on_device = isinstance(lr, Tensor) and lr.device == first.device
        self.run(
            self.kernels.adam,
            first,
            DTYPE_CODES[first.dtype],
            [
                (p.data_ptr(), g.data_ptr(), m.data_ptr(), v.data_ptr(), t.data_ptr(), p.numel())
                for p, g, m, v, t in zip(*tensors, strict=True)
            ],
            [0.0 if on_device else float(lr), *numbers, *(() if squares is None else (settings.max_norm,))],
            settings.decoupled,
            settings.maximize,
            settings.corrects_eps,
            operand(lr) if on_device else None,  # type: ignore[arg-type]
            pointer(extras.scale),
            pointer(extras.found_inf),
            pointer(squares),
            0 if squares is None else len(squares),
            turns.data_ptr(),
        )

    def sum_squares(self, gradients: Sequence[Tensor]) -> Tensor:
        squares = empty_squares(gradients)
        self.run(
            self.kernels.sum_squares,
            gradients[0],
            DTYPE_CODES[gradients[0].dtype],
            [(gradient.data_ptr(), gradient.numel()) for gradient in gradients],
            squares.data_ptr(),
        )
        return squares
