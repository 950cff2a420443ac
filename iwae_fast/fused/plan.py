"""The plan of a training step in one launch: where every buffer lies, and what the blocks do between two barriers.

A step is a list of phases, separated by barriers of all blocks; a phase is a list of tasks, whose items the blocks
divide. Everything is float32. Activations have a column of ones after their last one, so that the product of a layer's
gradient with them gives the gradients of its weight and, as the last column, of its bias.

The decoder's backward pass runs on gradients of the log-likelihood of each sample; the scales of the estimator, which
depend on all samples of an observation, are factors of rows in the gradients of weights, and of the sums over samples
that the encoder gets. They are therefore computed beside the first product of the backward pass, not before it.

A layer's weight is used by its own backward product; its gradient is computed one phase later, and Adam updates it
with that gradient, or one further phase later where the gradient was divided into parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .items import (
    COEFFICIENTS,
    POSTERIOR_QUADS,
    QUAD,
    THREADS,
    UPDATE_ELEMENTS,
    Finish,
    Kind,
    Shape,
    Task,
    TensorWords,
)

LARGEST = 2**31 - 1
"""The largest number of rows, columns or items, which the kernel counts in 32 bits."""

PART_ROWS = 128
"""The fewest rows of a part of a gradient: a smaller part costs more to add up than it saves."""


class TooLargeError(ValueError):
    """The step does not fit the kernel's counters or its shared memory; the message says why."""


class Network(NamedTuple):
    """The sizes of a one-layer model and of a step."""

    data_dim: int
    encoder_dims: tuple[int, ...]
    """Sizes of the encoder's hidden layers, the one nearest to the data first."""
    latent_dim: int
    decoder_dims: tuple[int, ...]
    """Sizes of the decoder's hidden layers, the one nearest to the latents first."""
    batch: int
    samples: int

    @property
    def rows(self) -> int:
        """Number of samples of all observations."""
        return self.batch * self.samples


class Matrix(NamedTuple):
    """Rows of contiguous float32 numbers at an address."""

    address: int
    stride: int
    parity: int = 0
    """Elements to the matrix that odd steps use."""

    @property
    def wide(self) -> int:
        """1 if all rows are aligned to 16 bytes."""
        return int(self.address % 16 == 0 and self.stride % 4 == 0 and self.parity % 4 == 0)

    def column(self, first: int) -> Matrix:
        """Return the matrix from a column on."""
        return self._replace(address=self.address + 4 * first)


class Layer(NamedTuple):
    """A dense layer."""

    weight: int
    """Address of (outputs, inputs)."""
    bias: int
    inputs: int
    outputs: int
    tensor: int
    """Index of the weight among the tensors, after which the bias follows."""

    @property
    def matrix(self) -> Matrix:
        """The weight."""
        return Matrix(self.weight, self.inputs)


class Buffers:
    """The workspace of a step: one block of memory, divided into matrices whose rows are aligned to 16 bytes.

    Args:
        base: the address of the workspace, aligned to 16 bytes; 0 to compute sizes alone.
    """

    def __init__(self, base: int = 0) -> None:
        self.base = base
        self.floats = 0
        """Size of the workspace so far."""
        self.ones: list[tuple[int, int, int]] = []
        """First element, number of elements and stride, in floats, of what must be 1 before the first step."""

    def matrix(self, rows: int, columns: int, *, copies: int = 1, with_ones: bool = False) -> Matrix:
        """Place a matrix; ``with_ones`` adds a column of ones, and ``copies`` 2 has one for odd steps."""
        stride = _aligned(columns + with_ones)
        first, size = self.floats, rows * stride
        self.floats += copies * size
        if with_ones:
            self.ones.append((first + columns, copies * rows, stride))
        return Matrix(self.base + 4 * first, stride, size if copies > 1 else 0)

    def vector(self, size: int, *, ones: bool = False) -> int:
        """Place a vector, and return its address."""
        first = self.floats
        self.floats += _aligned(size)
        if ones:
            self.ones.append((first, size, 1))
        return self.base + 4 * first


class Plan(NamedTuple):
    """A step, as the kernel reads it."""

    phases: tuple[tuple[Task, ...], ...]
    floats: int
    """Size of the workspace."""
    ones: tuple[tuple[int, int, int], ...]
    """See :attr:`Buffers.ones`."""
    coefficients: int
    """Address of Adam's coefficients."""
    log_weights: int
    """Address of the log-weights of the last step, (samples, batch)."""

    def words(self, tensors: Sequence[TensorWords]) -> list[int]:
        """Return the program: the number of tasks up to the end of each phase, the tensors, and the tasks."""
        ends, count = [], 0
        for phase in self.phases:
            count += len(phase)
            ends.append(count)
        return [*ends, *(word for each in tensors for word in each), *(w for p in self.phases for t in p for w in t)]

    @property
    def tasks(self) -> int:
        """Number of tasks."""
        return sum(map(len, self.phases))

    @property
    def barriers(self) -> int:
        """Number of barriers of all blocks per step."""
        return len(self.phases)


def plan_step(network: Network, layers: Sequence[Layer], base: int = 0, blocks: int = 132) -> Plan:
    """Return the plan of a step.

    Args:
        network: the sizes.
        layers: the encoder's hidden layers, its mean and log_std, the decoder's hidden layers and its output.
        base: address of the workspace; 0 to compute sizes alone.
        blocks: the number of multiprocessors, among which products are divided.

    Raises:
        TooLargeError: a size exceeds 32 bits.
    """
    made = _Step(network, layers, Buffers(base), blocks).build()
    for task in (task for phase in made.phases for task in phase):
        if max(task.items * THREADS, task.rows, task.columns, task.inner) > LARGEST:
            raise TooLargeError(f"{Kind(task.kind).name.lower()} has {task.items} items of {task.rows} rows, too many")
    return made


class _Step:
    """A step under construction."""

    def __init__(self, network: Network, layers: Sequence[Layer], buffers: Buffers, blocks: int) -> None:
        self.sizes, self.buffers, self.blocks = network, buffers, blocks
        hidden = len(network.encoder_dims)
        self.encoder, (self.mean, self.log_std) = layers[:hidden], layers[hidden : hidden + 2]
        self.decoder = layers[hidden + 2 :]
        self.phases: list[list[Task]] = []
        rows, batch, latent = network.rows, network.batch, network.latent_dim
        self.x = buffers.matrix(batch, network.data_dim, copies=2, with_ones=True)
        self.above = [self.x, *(buffers.matrix(batch, layer.outputs, with_ones=True) for layer in self.encoder)]
        """The input of each layer of the encoder."""
        self.posterior = buffers.matrix(batch, 2 * latent)
        self.z = buffers.matrix(rows, latent, with_ones=True)
        self.below = [
            self.z,
            *(buffers.matrix(rows, layer.outputs, with_ones=True) for layer in self.decoder[:-1]),
        ]
        """The input of each layer of the decoder."""
        self.residual = buffers.matrix(rows, network.data_dim)
        self.log_ratio, self.log_weights = buffers.vector(rows), buffers.vector(rows)
        self.decoder_scale, self.encoder_scale = buffers.vector(rows), buffers.vector(rows)
        self.unscaled = buffers.vector(batch, ones=True)
        self.coefficients = buffers.vector(2 * len(layers) * COEFFICIENTS)

    def build(self) -> Plan:
        self._encoder_forward()
        self._decoder_forward()
        self._encoder_backward(*self._decoder_backward())
        pixels = self.sizes.batch * _parts(self.sizes.data_dim, QUAD)
        self.phases[-1].append(
            Task(
                Kind.PIXELS,
                items=_parts(pixels, THREADS),
                rows=self.sizes.batch,
                columns=self.sizes.data_dim,
                out=self.x.address,
                out_stride=self.x.stride,
                other_parity=self.x.parity,
            )
        )
        phases = tuple(tuple(sorted(phase, key=_work, reverse=True)) for phase in self.phases)
        buffers = self.buffers
        return Plan(phases, buffers.floats, tuple(buffers.ones), self.coefficients, self.log_weights)

    def _at(self, phase: int, *tasks: Task) -> None:
        """Add tasks to a phase, which may be a new one."""
        while len(self.phases) <= phase:
            self.phases.append([])
        self.phases[phase].extend(tasks)

    def _next(self, *tasks: Task) -> None:
        """Add tasks as a new phase."""
        self._at(len(self.phases), *tasks)

    def _encoder_forward(self) -> None:
        batch, latent = self.sizes.batch, self.sizes.latent_dim
        for layer, below, out in zip(self.encoder, self.above, self.above[1:], strict=False):
            self._next(self._forward(layer, below, out, batch, Finish.TANH))
        last = self.above[-1]
        self._next(
            self._forward(self.mean, last, self.posterior, batch, Finish.LINEAR),
            self._forward(self.log_std, last, self.posterior.column(latent), batch, Finish.LINEAR),
        )
        self._at(0, Task(Kind.COEFFICIENTS, items=1))

    def _decoder_forward(self) -> None:
        rows, batch, latent = self.sizes.rows, self.sizes.batch, self.sizes.latent_dim
        lanes = min(32, 1 << (_parts(latent, QUAD) - 1).bit_length())
        self._next(
            Task(
                Kind.SAMPLE,
                items=_parts(rows, THREADS // lanes),
                rows=rows,
                columns=latent,
                column_tiles=lanes,
                a=self.posterior.address,
                a_stride=self.posterior.stride,
                other_rows=batch,
                out=self.z.address,
                out_stride=self.z.stride,
                sums=self.log_ratio,
            )
        )
        for layer, below, out in zip(self.decoder[:-1], self.below, self.below[1:], strict=False):
            self._next(self._forward(layer, below, out, rows, Finish.TANH))
        output = self._forward(self.decoder[-1], self.below[-1], self.residual, rows, Finish.BERNOULLI)
        self.parts = output.column_tiles * Shape(output.shape).row_parts
        self.terms = self.buffers.matrix(rows, self.parts)
        """Parts of the log-likelihood of each sample."""
        self._next(
            output._replace(
                other=self.x.address,
                other_stride=self.x.stride,
                other_rows=batch,
                other_parity=self.x.parity,
                sums=self.terms.address,
                sums_stride=self.terms.stride,
            )
        )

    def _decoder_backward(self) -> tuple[int, Matrix]:
        """Return the next phase, and the gradients of mean and log_std."""
        rows, batch, latent, samples = (
            self.sizes.rows,
            self.sizes.batch,
            self.sizes.latent_dim,
            self.sizes.samples,
        )
        phase, gradient = len(self.phases), self.residual
        self._at(
            phase,
            Task(
                Kind.WEIGHTS,
                items=batch,
                rows=batch,
                inner=samples,
                other=self.log_ratio,
                out=self.log_weights,
                parts=self.parts,
                sums=self.terms.address,
                sums_stride=self.terms.stride,
                encoder_scale=self.encoder_scale,
                decoder_scale=self.decoder_scale,
            ),
        )
        for layer, activation in zip(reversed(self.decoder), reversed(self.below), strict=True):
            into = self.buffers.matrix(rows, layer.inputs)
            self._at(phase, self._backward([layer], gradient, into, rows, activation))
            self._update(phase + 1, layer, gradient, activation, rows, self.decoder_scale)
            phase, gradient = phase + 1, into
        of_posterior = self.buffers.matrix(batch, 2 * latent)
        blocks = _parts(latent, QUAD * POSTERIOR_QUADS)
        self._at(
            phase,
            Task(
                Kind.POSTERIOR,
                items=batch * blocks,
                rows=batch,
                columns=latent,
                inner=samples,
                column_tiles=blocks,
                a=self.posterior.address,
                a_stride=self.posterior.stride,
                b=gradient.address,
                b_stride=gradient.stride,
                other_rows=batch,
                out=of_posterior.address,
                out_stride=of_posterior.stride,
                encoder_scale=self.encoder_scale,
            ),
        )
        return phase + 1, of_posterior

    def _encoder_backward(self, phase: int, gradient: Matrix) -> None:
        batch = self.sizes.batch
        levels = [[layer] for layer in self.encoder] + [[self.mean, self.log_std]]
        for layers, activation in zip(reversed(levels), reversed(self.above), strict=True):
            if activation is not self.x:
                into = self.buffers.matrix(batch, layers[0].inputs)
                self._at(phase, self._backward(layers, gradient, into, batch, activation))
                phase += 1
            first = 0
            for layer in layers:
                self._update(phase, layer, gradient.column(first), activation, batch, self.unscaled)
                first += layer.outputs
            if activation is not self.x:
                gradient = into

    def _forward(self, layer: Layer, below: Matrix, out: Matrix, rows: int, finish: Finish) -> Task:
        shape = self._shape(rows, layer.outputs, layer.inputs)
        return _product(
            Kind.FORWARD, shape, finish, (rows, layer.outputs, layer.inputs), below, layer.matrix, out
        )._replace(bias=layer.bias)

    def _backward(self, layers: list[Layer], gradient: Matrix, into: Matrix, rows: int, activation: Matrix) -> Task:
        """Return the product of a gradient of some layers' outputs with their weights, times the derivative of the
        tanh that made their input; z has none."""
        first, inner = layers[0], sum(layer.outputs for layer in layers)
        finish = Finish.PLAIN if activation is self.z else Finish.SLOPE
        shape = self._shape(rows, first.inputs, inner)
        task = _product(
            Kind.BACKWARD, shape, finish, (rows, first.inputs, inner), gradient, first.matrix, into
        )._replace(other=activation.address, other_stride=activation.stride)
        for rest in layers[1:]:
            wide = first.matrix.wide & rest.matrix.wide
            task = task._replace(b_rest=rest.weight, b_first=first.outputs, b_wide=wide)
        return task

    def _update(self, phase: int, layer: Layer, gradient: Matrix, activation: Matrix, inner: int, scale: int) -> None:
        """Add the update of a layer, whose gradient is computed in a phase."""
        sizes = layer.outputs, layer.inputs + 1, inner
        tiles = _parts(sizes[0], Shape.WIDE.rows) * _parts(sizes[1], Shape.WIDE.columns)
        parts = max(1, min(2 * self.blocks // tiles, inner // PART_ROWS))
        part = 32 * _parts(_parts(inner, parts), 32)
        parts = _parts(inner, part)
        task = _product(
            Kind.GRADIENT, Shape.WIDE, Finish.ADAM, sizes, gradient, activation, Matrix(0, 0), part
        )._replace(row_scale=scale, layer=layer.tensor)
        if parts == 1:
            self._at(phase, task)
            return
        out = self.buffers.matrix(parts * layer.outputs, layer.inputs + 1)
        size = layer.outputs * out.stride
        self._at(phase, task._replace(finish=Finish.PART, out=out.address, out_stride=out.stride, out_part=size))
        self._at(
            phase + 1,
            Task(
                Kind.UPDATE,
                items=_parts(sizes[0] * sizes[1], THREADS * UPDATE_ELEMENTS),
                rows=sizes[0],
                columns=sizes[1],
                a=out.address,
                a_stride=out.stride,
                out_part=size,
                parts=parts,
                layer=layer.tensor,
            ),
        )

    def _shape(self, rows: int, columns: int, inner: int) -> Shape:
        """Return the shape of tiles for which the blocks are done first."""
        return min(Shape, key=lambda shape: product_time(shape, rows, columns, inner, self.blocks))


def product_time(shape: Shape, rows: int, columns: int, inner: int, blocks: int, products: int = 3) -> float:
    """Return a rough time of a product in clock cycles of a multiprocessor: rounds of tiles, each of which takes as
    long as its loads or its products, whichever is longer, and a latency."""
    rounds = _parts(_parts(rows, shape.rows) * _parts(columns, shape.columns), blocks)
    loads = (shape.rows + shape.columns) * inner * 4 / BYTES_A_CYCLE
    multiplied = shape.rows * shape.columns * inner * products / PRODUCTS_A_CYCLE
    return LATENCY_CYCLES + rounds * max(loads, multiplied)


BYTES_A_CYCLE = 48
"""Bytes that a multiprocessor gets from the second-level cache per cycle, all of them at once."""
PRODUCTS_A_CYCLE = 640
"""Multiplications in TF32 of a multiprocessor per cycle by ``mma``, 60 % of its peak."""
LATENCY_CYCLES = 1500
"""From the first load of an item to its last store, besides the work."""


def _product(
    kind: Kind,
    shape: Shape,
    finish: Finish,
    sizes: tuple[int, int, int],
    a: Matrix,
    b: Matrix,
    out: Matrix,
    part: int | None = None,
) -> Task:
    """Return a product whose result is (rows, columns), summed over ``inner`` in parts."""
    rows, columns, inner = sizes
    part = inner if part is None else part
    column_tiles = _parts(columns, shape.columns)
    return Task(
        kind,
        items=_parts(rows, shape.rows) * column_tiles * _parts(inner, part),
        shape=shape,
        finish=finish,
        rows=rows,
        columns=columns,
        inner=inner,
        column_tiles=column_tiles,
        inner_part=part,
        a=a.address,
        a_stride=a.stride,
        a_wide=a.wide,
        a_parity=a.parity,
        b=b.address,
        b_stride=b.stride,
        b_wide=b.wide,
        b_parity=b.parity,
        out=out.address,
        out_stride=out.stride,
        parts=_parts(inner, part),
    )


def _work(task: Task) -> float:
    """Return a measure of the work of an item: a phase begins with its longest ones."""
    if task.kind in (Kind.FORWARD, Kind.BACKWARD, Kind.GRADIENT):
        shape = Shape(task.shape)
        return shape.rows * shape.columns * task.inner_part
    return LARGEST if task.kind in (Kind.WEIGHTS, Kind.POSTERIOR, Kind.COEFFICIENTS) else 0.0


def _parts(size: int, part: int) -> int:
    return -(-size // part)


def _aligned(floats: int) -> int:
    """Round a number of floats up to whole 16 bytes."""
    return 4 * _parts(floats, 4)
