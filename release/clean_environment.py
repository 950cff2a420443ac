"""Installs wheels, each in a new virtual environment without a compiler, and tests them there:

    python -m release.clean_environment WHEEL [WHEEL ...]

The interpreter of a wheel is found on PATH by its tag, as python3.12 for cp312. Wheels of other machines cannot be
tested.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = (
    "tests/ops/test_gaussian_log_prob.py",
    "tests/ops/test_log_mean_exp.py",
    "tests/objectives/test_arguments.py",
)
NEEDED = ("pytest>=8.0,<9.2", "pytest-xdist>=3.5", "hypothesis>=6.100", "mpmath>=1.3", "pybind11>=2.13")

LOOK = """
import shutil, sys
from pathlib import Path
import torch
import iwae_fast
from iwae_fast.backends import extension

kind, version = sys.argv[1:]
for compiler in ("cc", "c++", "gcc", "g++", "clang", "nvcc"):
    assert shutil.which(compiler) is None, compiler
installed = Path(iwae_fast.__file__)
assert installed.is_relative_to(sys.prefix), installed
assert (installed.parent / "py.typed").exists() and iwae_fast.__version__ == version, iwae_fast.__version__
assert (extension.MODULE is not None) == (kind != "reference"), extension.REASON
assert hasattr(extension.MODULE, "cuda") == (kind == "cuda")
assert iwae_fast.backends.info()["chosen"]["cpu"] == ("reference" if kind == "reference" else "cpu")
libraries = {line.split()[-1] for line in open("/proc/self/maps") if "libgomp" in line}
assert all("torch" in path for path in libraries), libraries
print(kind, iwae_fast.__version__, "in", installed.parent, "with", *libraries)
"""


def kind_of(wheel: Path) -> str:
    """Return what the wheel of this name has kernels for: "cpu", "cuda" too, or none of its own ("reference")."""
    if wheel.name.endswith("-none-any.whl"):
        return "reference"
    return "cuda" if "+cu" in wheel.name else "cpu"


def find_interpreter(name: str) -> str | None:
    """Return the path of an interpreter of this name, or None if there is none that runs.

    Version managers put scripts of every version on PATH, which fail for versions that are not active.
    """
    found = shutil.which(name)
    if found is None:
        return None
    asked = subprocess.run(
        (found, "-c", "import sys; print(sys.executable)"), capture_output=True, text=True, check=False
    )
    return asked.stdout.strip() or None if asked.returncode == 0 else None


def interpreter_of(wheel: Path) -> str:
    """Return an interpreter that the wheel of this name is for; raise SystemExit if PATH has none that runs."""
    tag = re.search(r"-cp3(\d+)-", wheel.name)
    if tag is None:
        return sys.executable
    found = find_interpreter(f"python3.{tag[1]}")
    if found is None:
        raise SystemExit(f"{wheel.name} needs python3.{tag[1]}, but there is none on PATH that runs")
    return found


def test_wheel(wheel: Path, interpreter: str) -> None:
    """Install a wheel with the packages that its tests need, look at it, and run tests from a copy of their folder.

    Raises:
        CalledProcessError: if a test fails.
    """
    kind, version = kind_of(wheel), wheel.name.split("-")[1]
    print(f"testing {wheel.name} with {interpreter}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        subprocess.run([interpreter, "-m", "venv", folder / "environment"], check=True)
        programs = folder / "environment" / "bin"
        variables = {
            name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "CUDA_", "IWAE"))
        }
        variables |= {"PATH": str(programs), "CC": "/no/such/compiler", "CXX": "/no/such/compiler"}
        constraints = ("--constraint", str(ROOT / "constraints.txt"))
        install = (programs / "pip", "install", "--quiet", "--only-binary", ":all:", *constraints, wheel, *NEEDED)
        subprocess.run(install, env=variables, check=True)
        shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", folder)
        subprocess.run((programs / "python", "-c", LOOK, kind, version), cwd=folder, env=variables, check=True)
        variables |= {"OMP_WAIT_POLICY": "passive", "HYPOTHESIS_PROFILE": "fast"}
        # The notice of a wheel without an extension is right here, and would be an error.
        ignored = "ignore:iwae_fast runs on its reference backend"
        tests = (programs / "pytest", "-q", "-W", ignored, "-r", "fE", "-p", "no:cacheprovider", *TESTS)
        subprocess.run(tests, cwd=folder, env=variables, check=True)


if __name__ == "__main__":
    if len(sys.argv) < 2:
        raise SystemExit(__doc__)
    for path in map(Path, sys.argv[1:]):
        test_wheel(path.resolve(), interpreter_of(path))
