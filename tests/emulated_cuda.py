"""Runs the kernels of csrc/cuda on CPU tensors, where there is no GPU: compiled for the CPU with
cuda_emulator/emulator.h in the place of CUDA, they are the "cuda" backend of the tests.

What a GPU does besides, this does not show: its instructions for exponentials and reciprocals, memory that several
blocks write at once, and time.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import sysconfig
from functools import partial
from pathlib import Path
from types import ModuleType

import pybind11
import torch
from torch import Tensor

from iwae_fast.backends import MISSING, cuda, native

ROOT = Path(__file__).parents[1]
SOURCE = ROOT / "tests" / "cuda_emulator" / "module.cpp"
FOLDERS = (ROOT / "csrc", SOURCE.parent)
FLAGS = (
    *("-O1", "-g0", "-std=c++17", "-shared", "-fPIC", "-DIWAE_ISA=cuda"),
    *("-Wall", "-Werror", "-Wno-unknown-pragmas", "-Wno-clobbered"),
    "-U_FORTIFY_SOURCE",  # which takes a change of fibers for a mistake
)


def install() -> None:
    """Make the kernels the "cuda" backend, where a compiler is there to build them."""
    if shutil.which("g++") is None:
        return
    kernels = native.Native(load(build()), lambda _: (0, Memory()))
    for name in native.__all__:
        if name not in ("Native", "linear_tanh", "linear_tanh_backward"):
            setattr(cuda, name, partial(getattr(native, name), kernels))
    cuda.DEVICE = "cpu"
    cuda.missing = cuda.unavailable = lambda: None
    MISSING["cuda"] = None


class Memory:
    """What a call asks for, for as long as it runs."""

    def __init__(self) -> None:
        self.taken: list[Tensor] = []

    def __call__(self, size: int) -> int:
        self.taken.append(torch.empty(size, dtype=torch.uint8))
        return self.taken[-1].data_ptr()


def build() -> Path:
    """The compiled module, of just these sources; made if it is not there."""
    sources = sorted(path for folder in FOLDERS for path in folder.rglob("*") if path.suffix in (".h", ".cu", ".cpp"))
    texts = b"".join(path.read_bytes() for path in sources)
    version = hashlib.sha256(" ".join((*FLAGS, sys.version)).encode() + texts).hexdigest()[:16]
    target = ROOT / "build" / "emulated-cuda" / version / f"emulated_cuda{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        made = target.with_suffix(f".{os.getpid()}")  # another process may be building it too
        includes = [f"-I{folder}" for folder in (*FOLDERS, pybind11.get_include(), sysconfig.get_path("include"))]
        subprocess.run(["g++", *FLAGS, *includes, "-o", made, SOURCE], check=True)
        made.rename(target)
    return target


def load(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("emulated_cuda", path)
    module = importlib.util.module_from_spec(spec)  # type: ignore[arg-type]
    spec.loader.exec_module(module)  # type: ignore[union-attr]
    return module
