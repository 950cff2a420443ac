"""The page of a sweep: its trials in the order of their NLL, and the NLL over each setting."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...files import replace_file
from ..pictures import plots
from ..pictures.plots import Points
from ..report.page import Figure, render
from ..setting_text import setting_text
from .outcome import TrialOutcome
from .space import Range, Space

MOST_SERIES = 8
"""The most lines in a diagram; beyond them all points have one color."""
LOGARITHMIC = 30.0
"""The ratio of the largest value to the smallest from which an axis is logarithmic."""


def write_page(
    path: Path, space: Space, seeds: int, objective: str, outcomes: Sequence[TrialOutcome], command: str
) -> None:
    """Write the page of a sweep, whose outcomes are ranked, with links to the reports of the runs under ``runs/``."""
    names = (*space.grid, *space.sampled)
    page = render(
        "sweep.html",
        title=", ".join(names) or f"{seeds} seeds",
        dataset=Path(space.dataset).stem,
        names=names,
        seeds=seeds,
        objective=objective,
        rows=[([setting_text(each.trial.settings[name]) for name in names], each) for each in outcomes],
        shared={name: setting_text(value) for name, value in space.shared.items()},
        sampled={name: str(sampled) for name, sampled in space.sampled.items()},
        figures=_figures(space, objective, [each for each in outcomes if each.nll is not None]),
        command=command,
    )
    replace_file(path, page.encode())


def _figures(space: Space, objective: str, outcomes: Sequence[TrialOutcome]) -> list[Figure]:
    names = (*space.grid, *space.sampled)
    varying = [name for name in names if len({setting_text(each.trial.settings[name]) for each in outcomes}) > 1]
    return [_figure(space, name, objective, outcomes) for name in varying]


def _figure(space: Space, name: str, objective: str, outcomes: Sequence[TrialOutcome]) -> Figure:
    values = [each.trial.settings[name] for each in outcomes]
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    texts = [] if numeric else list(dict.fromkeys(sorted(map(setting_text, values))))
    sampled = space.sampled.get(name)
    if isinstance(sampled, Range):
        logarithmic = sampled.log
    else:
        logarithmic = numeric and min(values) > 0 and max(values) / min(values) >= LOGARITHMIC

    def position(each: TrialOutcome) -> float:
        value: Any = each.trial.settings[name]
        return float(value) if numeric else float(texts.index(setting_text(value)))

    groups: dict[str, list[TrialOutcome]] = {}
    for each in sorted(outcomes, key=position):
        others = (f"{other} = {setting_text(each.trial.settings[other])}" for other in space.grid if other != name)
        groups.setdefault(", ".join(others), []).append(each)
    joined = numeric and not space.sampled and len(groups) <= MOST_SERIES
    if len(groups) > MOST_SERIES:
        groups = {"": sorted(outcomes, key=position)}
    series = [
        Points(
            [position(each) for each in group],
            [each.nll for each in group if each.nll is not None],
            [each.std_error for each in group],
            label,
            joined,
        )
        for label, group in groups.items()
    ]
    unit = f"{objective} NLL, nats"
    return Figure.drawn(
        lambda theme: plots.by_setting(name, series, unit, theme, names=texts, logarithmic=logarithmic),
        f"The {objective} NLL over {name}",
        "One point per trial, the mean over seeds with its standard error.",
    )
