"""Tests of the installed package: wheels built in isolation, with and without a compiler."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from paths import ROOT

pytestmark = pytest.mark.slow


def build_wheel(tmp_path: Path, **environment: str) -> tuple[list[str], str]:
    """Return the names in a wheel built from a copy of the sources in an isolated environment without torch."""
    source = tmp_path / "source"
    ignore = shutil.ignore_patterns(".git", ".venv", "build", "*.so", "*.egg-info", "runs", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignore)
    result = subprocess.run(
        [sys.executable, "-m", "pip", "wheel", "--no-deps", "--verbose", "--wheel-dir", str(tmp_path), str(source)],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    output = result.stdout + result.stderr
    assert result.returncode == 0, output
    (wheel,) = tmp_path.glob("*.whl")
    return zipfile.ZipFile(wheel).namelist(), output


def has_cuda(tmp_path: Path) -> bool:
    """Return True if the extension in the wheel built there has CUDA kernels."""
    (wheel,) = tmp_path.glob("*.whl")
    unpacked = tmp_path / "unpacked"
    zipfile.ZipFile(wheel).extractall(unpacked)
    code = (
        f"import torch, sys; sys.path.insert(0, {str(unpacked)!r}); import iwae_fast._C as c; print(hasattr(c, 'cuda'))"
    )
    told = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True)
    return told.stdout.strip() == "True"


def test_wheel_has_every_package_and_the_extension_and_no_top_level_kernels(tmp_path: Path) -> None:
    names, _ = build_wheel(tmp_path, IWAE_FAST_REQUIRE_EXTENSION="1")
    assert any(name.startswith("iwae_fast/_C.") for name in names)
    packages = {path.relative_to(ROOT).as_posix() for path in (ROOT / "iwae_fast").rglob("__init__.py")}
    assert packages | {"iwae_fast/kernels/__init__.py"} <= set(names)
    assert {name.split("/")[0] for name in names if not name.split("/")[0].endswith(".dist-info")} == {"iwae_fast"}


def test_without_a_compiler_it_installs_without_the_extension_and_says_so(tmp_path: Path) -> None:
    names, output = build_wheel(tmp_path, CC="/no/such/compiler", CXX="/no/such/compiler")
    assert not any(name.startswith("iwae_fast/_C.") for name in names)
    assert "iwae_fast/ops/densities.py" in names
    assert "WITHOUT its C++ extension" in output


def test_left_out_on_purpose_it_makes_a_wheel_for_every_platform(tmp_path: Path) -> None:
    names, _ = build_wheel(tmp_path, IWAE_FAST_EXTENSION="0")
    (wheel,) = tmp_path.glob("*.whl")
    assert wheel.name.endswith("-py3-none-any.whl")
    assert not any(name.endswith(".so") for name in names)
    assert {"iwae_fast/py.typed", "iwae_fast/kernels/launches.py"} <= set(names)


def test_left_out_and_required_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(AssertionError, match="contradict each other"):
        build_wheel(tmp_path, IWAE_FAST_EXTENSION="0", IWAE_FAST_REQUIRE_EXTENSION="1")


def test_a_required_extension_without_a_compiler_is_an_error(tmp_path: Path) -> None:
    environment = {"CC": "/no/such/compiler", "CXX": "/no/such/compiler", "IWAE_FAST_REQUIRE_EXTENSION": "1"}
    with pytest.raises(AssertionError, match="compiler"):
        build_wheel(tmp_path, **environment)


def test_cuda_can_be_left_out(tmp_path: Path) -> None:
    build_wheel(tmp_path, IWAE_FAST_CUDA="0", IWAE_FAST_REQUIRE_EXTENSION="1")
    assert not has_cuda(tmp_path)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="there is no nvcc")
def test_cuda_is_built_where_nvcc_is(tmp_path: Path) -> None:
    build_wheel(tmp_path, IWAE_FAST_CUDA="1", IWAE_FAST_REQUIRE_EXTENSION="1")
    assert has_cuda(tmp_path)


def test_cuda_insisted_on_without_nvcc_is_an_error(tmp_path: Path) -> None:
    path = os.pathsep.join(
        folder for folder in os.environ["PATH"].split(os.pathsep) if not (Path(folder) / "nvcc").exists()
    )
    environment = {"IWAE_FAST_CUDA": "1", "IWAE_FAST_REQUIRE_EXTENSION": "1", "PATH": path, "CUDA_HOME": ""}
    with pytest.raises(AssertionError, match="nvcc is neither in"):
        build_wheel(tmp_path, **environment)
