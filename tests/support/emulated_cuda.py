"""The kernels of csrc/cuda on CPU tensors, for machines without a GPU: compiled for the CPU with
cuda_emulator/emulator.h in place of CUDA, they are the "cuda" backend of the tests.

The emulation does not cover the GPU's instructions for exponentials and reciprocals, concurrent writes of several
blocks to the same memory, and timing.
"""

from __future__ import annotations

import functools
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import pybind11
import torch
from paths import ROOT
from torch import Tensor

from iwae_fast.backends import MISSING, NATIVE
from iwae_fast.backends.cuda import CUDABackend

SOURCE = ROOT / "tests" / "cuda_emulator" / "module.cpp"
FOLDERS = (ROOT / "csrc", SOURCE.parent)
FLAGS = (
    *("-O1", "-g0", "-std=c++17", "-shared", "-fPIC", "-DIWAE_ISA=cuda"),
    *("-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-clobbered"),
    "-U_FORTIFY_SOURCE",  # which mistakes a switch of fibers for an error
)


def install() -> None:
    """Install the kernels as the "cuda" backend, if there is a compiler to build them.

    Compiling takes a minute or two. It starts now, in parallel with the first tests; the first test that needs a kernel
    waits for it.
    """
    if shutil.which("g++") is None:
        return
    if "PYTEST_XDIST_WORKER" not in os.environ and not target().exists():
        subprocess.Popen([sys.executable, __file__], stdout=subprocess.DEVNULL)
    NATIVE["cuda"] = EmulatedBackend()
    MISSING["cuda"] = None


class EmulatedBackend(CUDABackend):
    """The CUDA backend on the emulator, for CPU tensors."""

    device = "cpu"

    def __init__(self) -> None:
        super().__init__()
        self.kernels = Kernels()

    def run(self, kernel: Callable[..., None], tensor: Tensor, *arguments: Any) -> None:  # noqa: ARG002
        kernel(*arguments, (0, Memory()))

    def no_training_steps(self, device: torch.device) -> str | None:  # noqa: ARG002
        return None

    def missing(self) -> str | None:
        return None

    def unavailable(self) -> str | None:
        return None


class Kernels:
    """The compiled module, loaded when a kernel is first asked for."""

    @functools.cached_property
    def module(self) -> ModuleType:
        return load(build())

    def __getattr__(self, name: str) -> Any:
        return getattr(self.module, name)


@contextmanager
def clusters(available: bool) -> Iterator[None]:
    """Emulate a GPU that has clusters of blocks, as the emulator does by default, or one that does not; forget earlier
    launches."""
    kernels: Any = NATIVE["cuda"].kernels  # type: ignore[attr-defined]
    kernels.launches()
    kernels.set_clusters(available)
    try:
        yield
    finally:
        kernels.set_clusters(True)


def way_of_losses() -> str:
    """Return the way in which the losses since the last call were computed: "once", "together" or "apart".

    These are the ways of csrc/cuda/iwae_loss.h. Only the first launches clusters, and only the second launches single
    blocks with dynamic shared memory.
    """
    launches = NATIVE["cuda"].kernels.launches()  # type: ignore[attr-defined]
    if any(blocks for _, blocks, _ in launches):
        return "once"
    return "together" if any(shared_bytes for *_, shared_bytes in launches) else "apart"


class Memory:
    """The memory requested by a call, kept alive while it runs."""

    def __init__(self) -> None:
        self.taken: list[Tensor] = []

    def __call__(self, size: int) -> int:
        self.taken.append(torch.empty(size, dtype=torch.uint8))
        return self.taken[-1].data_ptr()


def target() -> Path:
    """Return the path of the module for the current sources, which may not exist yet."""
    sources = sorted(path for folder in FOLDERS for path in folder.rglob("*") if path.suffix in (".h", ".cu", ".cpp"))
    texts = b"".join(path.read_bytes() for path in sources)
    version = hashlib.sha256(" ".join((*FLAGS, sys.version)).encode() + texts).hexdigest()[:16]
    return ROOT / "build" / "emulated-cuda" / version / f"emulated_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"


def build() -> Path:
    """Return the compiled module; if it does not exist, one process builds it while others wait."""
    import fcntl  # POSIX only

    compiled = target()
    compiled.parent.mkdir(parents=True, exist_ok=True)
    with open(compiled.parent / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not compiled.exists():
            made = compiled.with_suffix(".unfinished")
            includes = [f"-I{folder}" for folder in (*FOLDERS, pybind11.get_include(), sysconfig.get_path("include"))]
            subprocess.run(["g++", *FLAGS, *includes, "-o", made, SOURCE], check=True)
            made.rename(compiled)
    return compiled


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("emulated_cuda", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module


if __name__ == "__main__":
    build()
