"""Installs a wheel in a new virtual environment without a compiler, and tests it there."""

from __future__ import annotations

import os
import shutil
import subprocess
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


def test_wheel(wheel: Path, interpreter: str, kind: str) -> None:
    """Install a wheel with the packages that its tests need, look at it, and run tests from a copy of their folder.

    Args:
        wheel: the file.
        interpreter: the interpreter of the environment.
        kind: "cpu" or "cuda" if the wheel has an extension with kernels for these, "reference" if it has none.

    Raises:
        CalledProcessError: if a test fails.
    """
    print(f"testing {wheel.name} with {interpreter}", flush=True)
    version = wheel.name.split("-")[1]
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
        tests = (programs / "pytest", "-q", "-r", "fE", "-p", "no:cacheprovider", *TESTS)
        subprocess.run(tests, cwd=folder, env=variables, check=True)
