"""Tests of the ops in the layout of Hugging Face's `kernels` library, loaded from a local folder."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import pytest
from paths import ROOT

pytest.importorskip("torch")
pytestmark = pytest.mark.xdist_group("hub_kernel")

COMPARE = """
import torch
from torch.distributions import Normal

def compare(ops, backend=None):
    value, mean, log_std = (torch.randn(3, 4, 5, requires_grad=True) for _ in range(3))
    ours = ops.gaussian_log_prob(value, mean, log_std, backend=backend)
    exact = Normal(mean, log_std.exp()).log_prob(value).sum(-1)
    torch.testing.assert_close(ours, exact)
    for found, expected in zip(*(torch.autograd.grad(y.sum(), (value, mean, log_std)) for y in (ours, exact))):
        torch.testing.assert_close(found, expected)
    torch.testing.assert_close(ops.log_mean_exp(exact, 0), exact.logsumexp(0) - torch.log(torch.tensor(3.0)))
"""

BY_PATH = """
import importlib.util, sys
from pathlib import Path

loaded = []
for identifier, folder in zip(sys.argv[2:], ("torch-cpu", "torch-cuda"), strict=True):
    spec = importlib.util.spec_from_file_location(identifier, Path(sys.argv[1], "build", folder, "__init__.py"))
    sys.modules[identifier] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[identifier])
    loaded.append(sys.modules[identifier])
assert not [name for name in sys.modules if name.startswith("iwae_fast")]
import iwae_fast
for ops in (*loaded, iwae_fast):
    compare(ops, "triton")  # in the interpreter
    compare(ops, "reference")
    registered = getattr(torch.ops, ops.__name__).log_mean_exp(torch.zeros(3, 4), 0, "triton")
    torch.testing.assert_close(registered, torch.zeros(4))
for ops in loaded:
    assert importlib.import_module(ops.__name__ + "._ops").add_op_namespace_prefix("x") == ops.__name__ + "::x"
"""

BY_ITS_LOADER = """
import sys
from pathlib import Path
from kernels import get_local_kernel

ops = get_local_kernel(Path(sys.argv[1]), backend="cpu")
assert ops.__name__ == sys.argv[2]
compare(ops)
"""


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """Return the folder of the kernel and the identifiers of its variants."""
    folder = tmp_path_factory.mktemp("hub") / "kernel"
    command = [sys.executable, "-m", "release.hub_kernel", str(folder)]
    made = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert made.returncode == 0, made.stderr
    return folder, made.stdout.split()


def run(code: str, folder: Path, identifiers: list[str], **environment: str) -> None:
    """Run code in a new process outside the repository, whose kernels/ would hide the library of that name."""
    result = subprocess.run(
        [sys.executable, "-P", "-c", COMPARE + code, str(folder), *identifiers],
        cwd=folder.parent,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


def test_its_files_import_nothing_but_themselves_torch_and_triton(kernel: tuple[Path, list[str]]) -> None:
    folder, _ = kernel
    package = folder / "torch-ext" / "iwae_fast_ops"
    found = set()
    for path in package.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                found.add((node.module or "").split(".")[0])
            elif isinstance(node, ast.ImportFrom):
                home = path.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                names = [alias.name for alias in node.names]
                assert home.with_suffix(".py").exists() or (home / "__init__.py").exists(), (path, node.module)
                assert home.is_relative_to(package), (path, names)
    assert found - sys.stdlib_module_names == {"torch", "triton"}


def test_its_build_file_and_metadata_agree(kernel: tuple[Path, list[str]]) -> None:
    folder, identifiers = kernel
    tomllib = pytest.importorskip("tomllib")  # Python 3.11
    general = tomllib.loads((folder / "build.toml").read_text())["general"]
    assert len(set(identifiers)) == len(general["backends"])
    for identifier, backend in zip(identifiers, general["backends"], strict=True):
        metadata = json.loads((folder / "build" / f"torch-{backend}" / "metadata.json").read_text())
        assert (metadata["id"], metadata["backend"]) == (identifier, {"type": backend})
        assert {key: metadata[key] for key in ("name", "version", "license")} == {
            key: general[key] for key in ("name", "version", "license")
        }


def test_its_variants_and_the_package_work_in_one_process(kernel: tuple[Path, list[str]]) -> None:
    pytest.importorskip("triton")
    folder, identifiers = kernel
    run(BY_PATH, folder, identifiers, TRITON_INTERPRET="1")


def test_its_own_loader_loads_it_from_a_folder(kernel: tuple[Path, list[str]]) -> None:
    try:
        version("kernels")
    except PackageNotFoundError:
        pytest.skip("the library kernels is not installed, which `make test-release` installs")
    folder, identifiers = kernel
    path = os.pathsep.join(entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry != str(ROOT))
    run(BY_ITS_LOADER, folder, identifiers[:1], HF_HUB_OFFLINE="1", IWAE_FAST_BACKEND="reference", PYTHONPATH=path)
