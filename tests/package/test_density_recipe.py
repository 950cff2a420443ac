"""Tests of the recipe for a density in docs/extending.md: its code is applied to a copy of the package, and runs."""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import emulated_cuda
import pybind11
import pytest
from paths import ROOT

PAGE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r"^`([^`\n]+)`(, a new file)?:\n\n```(\w+)\n(.*?)^```$", re.DOTALL | re.MULTILINE)

CHECK = """
import sys
import torch
import iwae_fast as iw

assert iw.__file__.startswith(sys.argv[1]), iw.__file__
if "cuda" in sys.argv[2:]:
    import emulated_cuda
    emulated_cuda.install()
if "triton" in sys.argv[2:]:
    import interpreter
    interpreter.mend()


def exact(value, mean, log_scale, mask=None):
    terms = torch.distributions.Laplace(mean, log_scale.exp()).log_prob(value)
    return (terms if mask is None else terms.where(mask, torch.zeros(()))).sum(-1)


def exact_loss(value, mean, log_scale, log_ratio, mask=None):
    return (torch.tensor(3.0).double().log() - (exact(value, mean, log_scale, mask) + log_ratio).logsumexp(0)).mean()


torch.manual_seed(0)
for dtype, features, masked in ((torch.float64, 37, False), (torch.float32, 1, True), (torch.bfloat16, 37, True)):
    shapes = ((4, features), (3, 4, features), (features,), (3, 4))  # with sums over every kind of broadcast axes
    inputs = [torch.randn(shape, dtype=torch.float64).to(dtype).requires_grad_() for shape in shapes]
    wide = [t.detach().double().requires_grad_() for t in inputs]
    mask = torch.rand(4, features) > 0.3 if masked else None
    close = dict(rtol=1e-10, atol=1e-10) if dtype == torch.float64 else dict(rtol=2e-5, atol=2e-5)
    half = dict(rtol=1e-2, atol=1e-2) if dtype == torch.bfloat16 else close  # gradients have the dtype of their input
    for backend in ("reference", *sys.argv[2:]):
        for ours, theirs, count in ((iw.laplace_log_prob, exact, 3), (iw.laplace_iwae_loss, exact_loss, 4)):
            result, expected = ours(*inputs[:count], mask, backend=backend), theirs(*wide[:count], mask)
            torch.testing.assert_close(result.double(), expected, **close)
            made = torch.autograd.grad(result.sum(), inputs[:count])
            for ours, theirs in zip(made, torch.autograd.grad(expected.sum(), wide[:count]), strict=True):
                torch.testing.assert_close(ours.double(), theirs, **half)

value, *whole = (torch.randn(3, 4, 37).requires_grad_(needed) for needed in (False, True, True))
log_ratio = torch.randn(3, 4)
expected = exact_loss(value.double(), *whole, log_ratio)
for backend in sys.argv[2:]:  # gradients from the forward pass, and the registered ops
    losses = [iw.laplace_iwae_loss]
    if backend != "triton":  # compiling takes seconds, and the ops are the same for every backend
        losses.append(torch.compile(iw.laplace_iwae_loss, fullgraph=True, backend="aot_eager"))
    for loss in losses:
        result = loss(value, *whole, log_ratio, backend=backend)
        torch.testing.assert_close(result, expected.float())
        exact_gradients = torch.autograd.grad(expected, whole, retain_graph=True)
        torch.testing.assert_close(torch.autograd.grad(result, whole), exact_gradients)
"""


def recipe() -> list[tuple[str, bool, str]]:
    """Return the path, whether it is new, and the text of each block of the recipe."""
    section = PAGE.read_text().split("\n## A density\n")[1].split("\n## ")[0]
    blocks = [(path, bool(new), text) for path, new, _, text in BLOCK.findall(section)]
    assert len(blocks) == section.count("```") // 2, "a block of the recipe does not name its file"
    return blocks


def changed(text: str, diff: str, path: str) -> str:
    """Apply a diff whose hunks are found by their lines: a last line of context may be the beginning of a line."""
    for hunk in diff.split("@@\n"):
        lines = hunk.splitlines()
        old, new = ("\n".join(line[1:] for line in lines if line[0] != other) for other in "+-")
        assert text.count(old) == 1, f"docs/extending.md quotes lines that {path} has not once: renew them:\n{old}"
        text = text.replace(old, new)
    return text


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a copy of the sources to which the recipe is applied."""
    folder = tmp_path_factory.mktemp("recipe")
    ignored = shutil.ignore_patterns("*.so", "__pycache__", "kernels")
    shutil.copytree(ROOT / "iwae_fast", folder / "iwae_fast", ignore=ignored)
    for name in ("csrc", "kernels", "tests/support", "tests/cuda_emulator"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "iwae_fast" / "kernels").symlink_to(folder / "kernels")
    for path, new, text in recipe():
        file = folder / path
        assert file.exists() != new, path
        file.write_text(text if new else changed(file.read_text(), text, path))
    return folder


def check(package: Path, *backends: str) -> None:
    """Compare the op and its loss with torch.distributions on these backends and the reference."""
    paths = os.pathsep.join([str(package), str(package / "tests" / "support")])
    result = subprocess.run(
        [sys.executable, "-c", CHECK, str(package), *backends],
        cwd=package,
        env={**os.environ, "PYTHONPATH": paths, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_a_density_takes_eight_files() -> None:
    paths = [path for path, *_ in recipe()]
    assert len(paths) == len(set(paths)) == 8
    assert "takes eight files" in PAGE.read_text()


def test_the_table_of_functions_is_that_of_the_code() -> None:
    """Check that every function in the table exists for the CPU, for CUDA and for Triton, and that none is left out."""
    table = PAGE.read_text().split("| C++: `Math::` | | Triton |\n| --- | --- | --- |\n")[1].split("\n\n")[0]
    rows = [re.split(r" *\| *", line.strip("| ")) for line in table.splitlines()]
    simd, cuda, triton = (
        (ROOT / path).read_text() for path in ("csrc/cpu/simd.h", "csrc/cuda/math.h", "kernels/elementary.py")
    )
    listed = {name for row in rows for name in re.findall(r"`(\w+)\(", row[0])}
    functions = re.findall(r"^  static (?:Value|Factors<Value>) (\w+)\(", simd.split("private:")[0], re.MULTILINE)
    assert listed == {name for name in functions if re.search(rf"IWAE_EVERYWHERE static [\w<>]+ {name}\(", cuda)}
    used = {name for row in rows for name in re.findall(r"`(\w+)`", row[2])}
    assert used == {*re.findall(r"^def (\w+)\(", triton, re.MULTILINE)} - {"exp2_float32"}


def test_the_reference_and_triton(package: Path) -> None:
    check(package, *(["triton"] if importlib.util.find_spec("triton") is not None else []))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
def test_the_kernels_in_cpp(package: Path) -> None:
    """The kernels for one instruction set, and those for CUDA on the emulator."""
    extension = package / "iwae_fast" / f"_C{sysconfig.get_config_var('EXT_SUFFIX')}"
    flags = [flag for flag in emulated_cuda.FLAGS if "IWAE_ISA" not in flag and flag not in ("-Wall", "-Werror")]
    flags += ["-Wno-psabi", "-fno-math-errno", f"-I{pybind11.get_include()}", f"-I{sysconfig.get_path('include')}"]
    sources = ["csrc/bindings.cpp", "csrc/cpu/kernels.cpp"]
    command = ["g++", *flags, "-DIWAE_ISA=baseline", *sources, "-o", str(extension)]
    built = subprocess.run(command, cwd=package, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    check(package, "cpu", "cuda")
