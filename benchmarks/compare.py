"""Comparison of two results: which workloads became faster or slower."""

from __future__ import annotations

from collections.abc import Sequence

from .rows import Row
from .table import median

CONDITIONS = ("device", "threads", "torch", "triton", "iwae_fast", "python", "isa")


def compare(old: Sequence[Row], new: Sequence[Row]) -> str:
    """Return a table of medians and the ratio new / old per workload and provider.

    Rows whose 10% - 90% ranges do not overlap are marked.
    """
    before = {(*row.work, row.provider): row for row in old}
    after = {(*row.work, row.provider): row for row in new}
    shared = [key for key in before if key in after]
    lines = differences(old, new)
    lines += [
        f"another version of {after[key].provider}: {before[key].version} -> {after[key].version}"
        for key in unique_by_provider(shared)
        if before[key].version and before[key].version != after[key].version
    ]
    for name, only in (("old", before.keys() - after.keys()), ("new", after.keys() - before.keys())):
        if only:
            lines.append(f"only in the {name} file: {len(only)} rows")
    lines += ["", "| work | provider | old | new | new / old | |", "| --- | --- | ---: | ---: | ---: | --- |"]
    for key in shared:
        a, b = before[key], after[key]
        lines.append(
            f"| {a.op} {a.mode} {a.shape} {a.dtype} | {a.provider} | {median(a)} | {median(b)} "
            f"| {b.median / a.median:.2f} | {mark(a, b)} |"
        )
    return "\n".join(lines).lstrip("\n")


def differences(old: Sequence[Row], new: Sequence[Row]) -> list[str]:
    """Return one line per condition that differs between the results."""
    lines = []
    for name in CONDITIONS:
        a, b = ({str(getattr(row, name)) for row in rows} for rows in (old, new))
        if a != b:
            lines.append(f"another {name}: {', '.join(sorted(a))} -> {', '.join(sorted(b))}")
    return lines


def unique_by_provider(keys: Sequence[tuple[str, ...]]) -> list[tuple[str, ...]]:
    return list({key[-1]: key for key in keys}.values())


def mark(old: Row, new: Row) -> str:
    if new.quantile_90 < old.quantile_10:
        return "less"
    return "more" if new.quantile_10 > old.quantile_90 else ""
