"""The number of rows in which this package is faster than every rival."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from . import copy
from .rows import Row
from .work import COMPILED


def fastest(rows: Sequence[Row]) -> str:
    """Return one line: in how many of the timed workloads we are faster than all rivals, in all and per backend.

    A workload counts if one of our providers and a rival were measured. Estimates and peak bytes do not count.
    """
    works: dict[tuple[str, ...], dict[str, Row]] = defaultdict(dict)
    for row in rows:
        if row.metric != "peak bytes" and row.op != copy.OP:
            works[row.work][row.provider] = row
    counted = won = compiled = alone = 0
    of_backend: dict[str, list[bool]] = defaultdict(list)
    for providers in works.values():
        ours = [row for row in providers.values() if row.role == "ours"]
        rivals = [row for row in providers.values() if row.role == "rival"]
        if not ours or not rivals:
            alone += bool(ours)
            continue
        limit = min(row.median for row in rivals)
        best: dict[str, float] = {}
        for row in ours:
            name = backend(row.provider)
            best[name] = min(row.median, best.get(name, row.median))
        for name, median in best.items():
            of_backend[name].append(median < limit)
        counted += 1
        won += min(best.values()) < limit
        compiled += any(row.provider.startswith(COMPILED) for row in rivals)
    each = [f"{name} in {sum(found)} of {len(found)}" for name, found in sorted(of_backend.items())]
    told = f" ({'; '.join(each)})" if each else ""
    return (
        f"fastest in {won} of {counted} rows{told}; torch.compile was measured in {compiled} of them, "
        f"and {alone} further rows have no rival"
    )


def backend(provider: str) -> str:
    """Return the backend of one of our providers, the first word after the package's name, or the name alone."""
    return next(iter(provider.removeprefix("iwae_fast").replace(",", " ").split()), "iwae_fast")
