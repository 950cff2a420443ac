"""Tests of the table of bounds, from which settings of a run, options and checks of options are derived."""

from __future__ import annotations

import inspect

import pytest
from fresh import run

pytest.importorskip("typer")

from iwae_fast import bounds
from iwae_fast.experiments.bound_settings import BOUNDS, SETTINGS, BoundSettings, bounds_with
from iwae_fast.experiments.cli.train import train
from iwae_fast.experiments.config import OBJECTIVE, TrainConfig
from iwae_fast.experiments.unused import check_training


def test_every_bound_has_a_name_on_the_command_line() -> None:
    exported = set(bounds.__all__) - {"Bound", "Coefficients"}
    assert {bound.class_name for bound in BOUNDS.values()} == exported


@pytest.mark.parametrize("name", BOUNDS)
def test_a_bound_is_made_of_its_settings(name: str) -> None:
    made = TrainConfig.preset("digits", bound=name, k=10).objective().bound
    assert type(made).__name__ == BOUNDS[name].class_name
    assert all(getattr(made, setting) == getattr(BoundSettings(), setting) for setting in BOUNDS[name].settings)


def test_every_setting_belongs_to_a_bound_and_may_change_with_it() -> None:
    assert {setting for bound in BOUNDS.values() for setting in bound.settings} == set(SETTINGS)
    assert set(SETTINGS) < set(OBJECTIVE)


@pytest.mark.parametrize("setting", SETTINGS)
def test_a_setting_of_another_bound_is_refused(setting: str) -> None:
    own = bounds_with(setting)
    check_training({setting}, TrainConfig.preset("digits", bound=own[0]))
    message = rf"--{setting} is an option of bound {' and '.join(own)}, and has no effect on bound 'iwae'"
    with pytest.raises(ValueError, match=message):
        check_training({setting}, TrainConfig.preset("digits"))


def test_options_follow_the_option_of_the_bound() -> None:
    parameters = list(inspect.signature(train).parameters)
    start = parameters.index("bound") + 1
    assert tuple(parameters[start : start + len(SETTINGS)]) == SETTINGS
    assert parameters[start + len(SETTINGS)] == "estimator"


def test_a_new_bound_and_setting_need_no_other_file() -> None:
    """Check that a row of the table and a field of the class give a setting, an option and its check."""
    code = """
from dataclasses import dataclass, field
import iwae_fast as iw
from iwae_fast.experiments import bound_settings

class Deep(iw.bounds.IWAE):
    def __init__(self, depth):
        self.depth = depth

@dataclass(frozen=True, kw_only=True)
class BoundSettings(bound_settings.BoundSettings):
    depth: int = field(default=3, metadata={"help": "Depth of deep."})

iw.bounds.Deep = Deep
bound_settings.BOUNDS["deep"] = bound_settings.NamedBound("Deep", ("depth",))
bound_settings.BoundSettings = BoundSettings
bound_settings.SETTINGS += ("depth",)

from iwae_fast.experiments.cli import choices, main
from iwae_fast.experiments.config import CHANGEABLE, TrainConfig
from iwae_fast.experiments.train.segments import Segment

config = TrainConfig.preset("digits", bound="deep", depth=4)
assert config.objective().bound.depth == 4
assert config.relevant()["depth"] == 4 and "depth" not in TrainConfig.preset("digits").relevant()
assert Segment.begin(0, config).describe() == "deep (depth 4), k = 50"
assert "deep" in choices.BOUNDS and "depth" in CHANGEABLE
try:
    main(["train", "--depth", "5"])
except SystemExit as end:
    assert end.code == 2
try:
    main(["train", "--help"])
except SystemExit as end:
    assert end.code == 0
"""
    result = run(code)
    assert result.returncode == 0, result.stderr
    assert "--depth is an option of bound deep, and has no effect on bound 'iwae'" in result.stderr
    assert "Depth of deep." in result.stdout
