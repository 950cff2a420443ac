"""Predicted times of training steps in one launch on an H100: a rough model, of which nothing was measured.

A phase takes as long as the longest of three, each divided among the multiprocessors: its bytes from the second-level
cache, its products on tensor cores, and its rounds of items, each with a latency; and a barrier. Clock cycles per item
are those of :func:`iwae_fast.fused.plan.product_time`.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from iwae_fast.fused.items import QUAD, Kind, Shape, Task
from iwae_fast.fused.plan import (
    BYTES_A_CYCLE,
    LATENCY_CYCLES,
    PRODUCTS_A_CYCLE,
    Layer,
    Network,
    Plan,
    plan_step,
)

from .kernel_model import CLOCK, MULTIPROCESSORS

RESULTS = Path(__file__).parent / "results" / "predicted-fused-step-h100.csv"

BARRIER = 1.02e-6
"""Seconds of a barrier of 132 blocks, measured on an H100."""

RESIDENT = 2
"""Blocks of the kernel on a multiprocessor, by its registers and shared memory."""

NOISE_CYCLES = 60
"""Cycles of a multiprocessor for a warp's quads of noise: about 200 instructions on four schedulers."""

SIZES = ((1, 20), (5, 20), (50, 20), (500, 20), (50, 100))
"""k and batch of the predicted steps of the papers' network."""


class PhaseTime(NamedTuple):
    """A phase of a step, predicted."""

    name: str
    items: int
    bytes: int
    flops: int
    seconds: float
    """With its barrier."""


def papers_network(samples: int, batch: int) -> Network:
    """Return the sizes of the one-layer network of Burda et al. (2016)."""
    return Network(784, (200, 200), 50, (200, 200), batch, samples)


def layers(network: Network) -> list[Layer]:
    """Return layers of a network at aligned addresses, for a plan that is not run."""
    widths = [network.data_dim, *network.encoder_dims]
    sizes = [*itertools.pairwise(widths), *[(widths[-1], network.latent_dim)] * 2]
    widths = [network.latent_dim, *network.decoder_dims, network.data_dim]
    sizes += itertools.pairwise(widths)
    return [Layer(16, 16, inputs, outputs, 2 * index) for index, (inputs, outputs) in enumerate(sizes)]


def plan_of(network: Network) -> Plan:
    """Return the plan of a step on an H100."""
    return plan_step(network, layers(network), 16, MULTIPROCESSORS)


def phases(plan: Plan, products: int) -> list[PhaseTime]:
    """Predict the phases of a step with 3 products in TF32, or 1."""
    return [_phase(phase, products) for phase in plan.phases]


def seconds(network: Network, products: int = 3) -> float:
    """Predict the time of a step."""
    return sum(phase.seconds for phase in phases(plan_of(network), products))


def _phase(tasks: Sequence[Task], products: int) -> PhaseTime:
    costs = [(task.items, *_item(task, products)) for task in tasks]
    items = sum(count for count, *_ in costs)
    moved = sum(count * size for count, size, _, _ in costs)
    cycles = sum(count * cycles for count, _, cycles, _ in costs)
    # The longest item, its share of a multiprocessor, and what the multiprocessors have to do in all.
    longest = max(cycles for _, _, cycles, _ in costs)
    rounds = -(-items // (RESIDENT * MULTIPROCESSORS))
    total = LATENCY_CYCLES * rounds + max(longest, cycles / MULTIPROCESSORS, moved / BYTES_A_CYCLE / MULTIPROCESSORS)
    name = " + ".join(dict.fromkeys(Kind(task.kind).name.lower() for task in tasks))
    flops = sum(2 * task.rows * task.columns * task.inner for task in tasks if task.kind in PRODUCTS)
    return PhaseTime(name, items, int(moved), flops, total / CLOCK + BARRIER)


PRODUCTS = (Kind.FORWARD, Kind.BACKWARD, Kind.GRADIENT)


def _item(task: Task, products: int) -> tuple[float, float, float]:
    """Return the bytes, the cycles, and the multiplications of an item."""
    if task.kind in PRODUCTS:
        shape = Shape(task.shape)
        inner = min(task.inner_part, task.inner)
        loads = (shape.rows + shape.columns) * inner * 4
        multiplied = shape.rows * shape.columns * inner * products
        kept = shape.rows * shape.columns * (24 if task.out == 0 else 4)
        return loads + kept, max((loads + kept) / BYTES_A_CYCLE, multiplied / PRODUCTS_A_CYCLE), multiplied
    if task.kind in (Kind.SAMPLE, Kind.PIXELS):
        size = task.rows * task.columns / task.items
        return 8 * size, NOISE_CYCLES * size / QUAD / 32, 0.0
    if task.kind == Kind.POSTERIOR:
        size = task.inner * task.columns / task.column_tiles
        return 4 * size, NOISE_CYCLES * size / QUAD / 32, 0.0
    if task.kind == Kind.WEIGHTS:
        size = 4.0 * task.inner * (task.parts + 4)
        return size, size / BYTES_A_CYCLE, 0.0
    if task.kind == Kind.UPDATE:
        size = task.rows * task.columns / task.items * 4 * (6 + task.parts)
        return size, size / BYTES_A_CYCLE, 0.0
    return 0.0, 0.0, 0.0


def write(path: Path = RESULTS) -> None:
    """Write the predicted phases of the papers' network to a file, with a line for each whole step."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("k", "B", "products", "phase", *PhaseTime._fields))
        for samples, batch in SIZES:
            for products in (3, 1):
                found = phases(plan_of(papers_network(samples, batch)), products)
                sums = [sum(column) for column in zip(*(each[1:4] for each in found), strict=True)]
                total = sum(each.seconds for each in found)
                whole = PhaseTime("step", sums[0], sums[1], sums[2], total)
                for index, each in enumerate((*found, whole)):
                    name = index if each is not whole else ""
                    writer.writerow((samples, batch, products, name, *each[:4], f"{each.seconds:.3g}"))
