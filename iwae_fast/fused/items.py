"""Tasks of a training step in one launch, as the 64-bit words that the kernel reads (``csrc/training_items.h``)."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple


class Kind(IntEnum):
    """The work of a task's items."""

    PIXELS = 0
    COEFFICIENTS = 1
    FORWARD = 2
    BACKWARD = 3
    GRADIENT = 4
    SAMPLE = 5
    WEIGHTS = 6
    POSTERIOR = 7
    UPDATE = 8


class Shape(IntEnum):
    """The shape of a product's tiles."""

    WIDE = 0
    FLAT = 1
    THIN = 2

    @property
    def rows(self) -> int:
        """Number of rows of a tile."""
        return 64 if self is Shape.WIDE else 32

    @property
    def columns(self) -> int:
        """Number of columns of a tile."""
        return 8 if self is Shape.THIN else 64

    @property
    def row_parts(self) -> int:
        """The number of parts into which the columns of a tile divide a sum over a row: one per warp."""
        return max(1, self.columns // 32)


class Finish(IntEnum):
    """The operation on the elements of a product."""

    PLAIN = 0
    LINEAR = 1
    TANH = 2
    SLOPE = 3
    BERNOULLI = 4
    PART = 5
    ADAM = 6


class Task(NamedTuple):
    """Items of one kind in one phase; the fields and their order are those of ``TrainingTask``."""

    kind: int = 0
    items: int = 0
    shape: int = 0
    finish: int = 0
    rows: int = 0
    columns: int = 0
    inner: int = 0
    column_tiles: int = 0
    inner_part: int = 0
    a: int = 0
    a_stride: int = 0
    a_wide: int = 0
    a_parity: int = 0
    b: int = 0
    b_stride: int = 0
    b_wide: int = 0
    b_parity: int = 0
    b_rest: int = 0
    b_first: int = 0
    bias: int = 0
    row_scale: int = 0
    other: int = 0
    other_stride: int = 0
    other_rows: int = 0
    other_parity: int = 0
    out: int = 0
    out_stride: int = 0
    out_part: int = 0
    parts: int = 0
    sums: int = 0
    sums_stride: int = 0
    encoder_scale: int = 0
    decoder_scale: int = 0
    layer: int = 0


class TensorWords(NamedTuple):
    """The addresses of a parameter, of Adam's state, and of the number of steps taken."""

    parameter: int
    first: int
    second: int
    step: int


THREADS = 256
"""Threads of a block; ``kThreads`` in csrc/cuda/device.h."""
QUAD = 4
"""Normals of one counter; ``kQuad`` in csrc/cuda/noise.h."""
POSTERIOR_QUADS = 16
"""Quads of an item of ``Kind.POSTERIOR``; ``kPosteriorQuads`` in csrc/cuda/training_step/sampling.h."""
UPDATE_ELEMENTS = 4
"""Elements of a thread in an item of ``Kind.UPDATE``; ``kUpdateElements`` in csrc/cuda/training_step/update.h."""
COEFFICIENTS = 9
"""Numbers of Adam that the elements of a tensor share; the fields of ``AdamCoefficients`` in csrc/math/adam.h."""
METRICS = 3
"""Numbers of an observation in the results: bound, effective sample size and largest weight."""
