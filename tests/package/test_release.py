"""Tests of the parts of `python -m release.wheels` that need no build; `make wheels` does the whole."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from release import clean_environment, wheels


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("iwae_fast-0.1.0-py3-none-any.whl", "reference"),
        ("iwae_fast-0.1.0-cp312-cp312-manylinux_2_28_x86_64.whl", "cpu"),
        ("iwae_fast-0.1.0+cu130-cp312-cp312-manylinux_2_28_x86_64.whl", "cuda"),
    ],
)
def test_the_name_of_a_wheel_says_which_kernels_it_has(name: str, kind: str) -> None:
    assert clean_environment.kind_of(Path(name)) == kind


def test_the_interpreter_of_a_wheel_is_the_one_of_its_tag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scripts = {"python3.12": f"echo {sys.executable}", "python3.13": "exit 127"}  # the second one is not active
    for name, line in scripts.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert clean_environment.interpreter_of(Path("iwae_fast-1-cp312-cp312-linux.whl")) == sys.executable
    assert clean_environment.interpreter_of(Path("iwae_fast-1-py3-none-any.whl")) == sys.executable
    with pytest.raises(SystemExit, match=r"needs python3\.13, but there is none on PATH that runs"):
        clean_environment.interpreter_of(Path("iwae_fast-1-cp313-cp313-linux.whl"))
    assert wheels.interpreters(None) == [sys.executable]
    with pytest.raises(SystemExit, match=r"--python must name interpreters, got python3\.9, which do not exist"):
        wheels.interpreters(["python3.9"])
