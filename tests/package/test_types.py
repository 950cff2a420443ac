"""Tests of the types that a user's checker sees. `make lint` checks the same program against the sources."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import typed_user
from paths import ROOT, TESTS

PROGRAM = TESTS / "support" / "typed_user.py"
PYRIGHT = next((name for name in ("basedpyright", "pyright") if importlib.util.find_spec(name) is not None), None)
TORCHMETRICS = importlib.util.find_spec("torchmetrics") is not None


@pytest.mark.filterwarnings("ignore:training steps are run one by one")
def test_the_program_that_is_checked_runs(capsys: pytest.CaptureFixture[str]) -> None:
    typed_user.main()
    assert float(capsys.readouterr().out) < 0.0


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a virtual environment with the package as it is installed, and everything else from this one."""
    folder = tmp_path_factory.mktemp("types") / "environment"
    venv.create(folder)
    (site,) = folder.glob("lib/python*/site-packages")
    ignore = shutil.ignore_patterns("*.so", "kernels", "__pycache__")
    shutil.copytree(ROOT / "iwae_fast", site / "iwae_fast", ignore=ignore)
    shutil.copytree(ROOT / "kernels", site / "iwae_fast" / "kernels")
    (site / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("-packages")))
    return folder


def check(environment: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run a checker in a folder of its own, as a user of the environment does."""
    folder = environment.parent
    shutil.copy(PROGRAM, folder)
    (folder / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict"}')
    path = f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}"
    variables = {**os.environ, "VIRTUAL_ENV": str(environment), "PATH": path, "PYTHONPATH": ""}
    return subprocess.run(
        [sys.executable, "-P", "-m", *command], cwd=folder, env=variables, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_mypy_accepts_the_program_in_strict_mode(environment: Path) -> None:
    interpreter = environment / "bin" / "python"
    result = check(environment, "mypy", "--strict", "--python-executable", str(interpreter), PROGRAM.name)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.skipif(PYRIGHT is None, reason="there is no pyright, which `make test-release` installs")
def test_pyright_accepts_the_program_in_strict_mode(environment: Path) -> None:
    assert PYRIGHT is not None
    result = check(environment, PYRIGHT, PROGRAM.name)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.slow
@pytest.mark.skipif(PYRIGHT is None, reason="there is no pyright, which `make test-release` installs")
def test_the_library_has_complete_types(environment: Path) -> None:
    """Check that every public name has a declared type, except those of the command line."""
    assert PYRIGHT is not None
    result = check(environment, PYRIGHT, "--verifytypes", "iwae_fast", "--ignoreexternal", "--outputjson")
    symbols = json.loads(result.stdout)["typeCompleteness"]["symbols"]
    exported = [symbol for symbol in symbols if symbol["isExported"]]
    # The base class of the metric has no type where torchmetrics is not installed.
    without = ("iwae_fast.experiments.", *(() if TORCHMETRICS else ("iwae_fast.contrib.torchmetrics.",)))
    library = [symbol for symbol in exported if not symbol["name"].startswith(without)]
    assert len(library) > 1000
    incomplete = [symbol["name"] for symbol in library if not symbol["isTypeKnown"] or symbol["isTypeAmbiguous"]]
    assert not incomplete
