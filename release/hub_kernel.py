"""Assembles the ops in the layout of Hugging Face's `kernels` library: python -m release.hub_kernel FOLDER

The public ops and what they import are copied as they are, since they use relative imports only: the leaves,
``reference/``, ``backends/``, ``kernels/`` and ``ops/``, which are the lowest folders of docs/architecture.md. The
compiled extension is not part of it: on CUDA tensors the Triton kernels run, and on others the reference.

``build.toml`` and ``torch-ext/`` are the sources that kernel-builder reads; ``build/torch-*`` are the variants that
``kernels.get_kernel`` and ``get_local_kernel`` load. A variant's name has a digest of its files, which is also the
namespace of its registered ops, so several versions and the installed package can be used in one process.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
from pathlib import Path

import iwae_fast

ROOT = Path(__file__).parents[1]
NAME = "iwae-fast-ops"
PACKAGE = NAME.replace("-", "_")
VERSION = 1
"""The version on the hub, a number that changes where callers may break."""
BACKENDS = ("cpu", "cuda")
FOLDERS = {
    "reference": "iwae_fast/reference",
    "backends": "iwae_fast/backends",
    "kernels": "kernels",
    "ops": "iwae_fast/ops",
}
LEAVES = ("_version.py", "checks.py", "deprecation.py")

BUILD = f"""\
[general]
name = "{NAME}"
version = {VERSION}
edition = 6
license = "Apache-2.0"
backends = {json.dumps(BACKENDS)}

[torch-noarch]
"""

INIT = '''\
"""The fused ops of iwae_fast {version}: log-densities, importance weights, IWAE losses and Gaussian samples.

On CUDA tensors the Triton kernels run, and on others a reference in torch. The pip package iwae_fast has C++ and CUDA
C++ kernels, models, bounds, objectives and the documentation.
"""

{imports}
from ._version import __version__

__all__ = [
{names}
]
'''

OPS = '''\
"""The namespace of the registered ops."""

import torch

from .ops.registry import NAMESPACE

ops = getattr(torch.ops, NAMESPACE)


def add_op_namespace_prefix(op_name: str) -> str:
    """Return the full name of a registered op."""
    return f"{NAMESPACE}::{op_name}"
'''

CARD = f"""\
---
license: apache-2.0
tags:
- kernels
---

# {NAME}

Fused ops for importance-weighted autoencoders in PyTorch: log-densities, importance weights, IWAE losses and
reparameterized samples, each with its backward pass. On CUDA tensors they are Triton kernels (Triton 3.6 and newer,
torch 2.11 and newer), on others a reference in torch.

    from pathlib import Path
    from kernels import get_local_kernel

    ops = get_local_kernel(Path("FOLDER"))
    loss = ops.bernoulli_iwae_loss(x, logits, log_ratio)

The pip package `iwae_fast`, from which this is made, has C++ and CUDA C++ kernels, models, bounds and objectives.
"""


def sources() -> dict[str, str]:
    """Return the texts of the kernel's Python files by their paths in it."""
    files = {leaf: (ROOT / "iwae_fast" / leaf).read_text(encoding="utf-8") for leaf in LEAVES}
    for name, folder in FOLDERS.items():
        for path in sorted((ROOT / folder).rglob("*.py")):
            files[f"{name}/{path.relative_to(ROOT / folder).as_posix()}"] = path.read_text(encoding="utf-8")
    homes = {home: names for home, names in iwae_fast._HOMES.items() if home.startswith("ops.")}
    imports = ["from . import backends", *(f"from .{home} import {', '.join(names)}" for home, names in homes.items())]
    names = sorted(["__version__", "backends", *(name for names in homes.values() for name in names)])
    files["__init__.py"] = INIT.format(
        version=iwae_fast.__version__,
        imports="\n".join(imports),
        names="\n".join(f'    "{name}",' for name in names),
    )
    return files


def write(folder: Path, files: dict[str, str]) -> None:
    """Write texts to their paths below the folder."""
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")


def assemble(folder: Path) -> list[str]:
    """Write the repository of the kernel to a folder that is new or empty; return the identifiers of its variants."""
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"folder must be new or empty, got {folder}")
    files = sources()
    write(folder, {"build.toml": BUILD, "README.md": CARD})
    shutil.copy(ROOT / "LICENSE", folder)
    write(folder / "torch-ext" / PACKAGE, files)
    digest = hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()[:7]
    identifiers = []
    for backend in BACKENDS:
        identifiers.append(f"_{PACKAGE}_{backend}_{digest}")
        metadata = {
            "name": NAME,
            "id": identifiers[-1],
            "version": VERSION,
            "license": "Apache-2.0",
            "python-depends": [],
            "backend": {"type": backend},
        }
        text = json.dumps(metadata, indent=2) + "\n"
        write(folder / "build" / f"torch-{backend}", {**files, "_ops.py": OPS, "metadata.json": text})
    return identifiers


def main() -> None:
    """Assemble the kernel in the folder given on the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m release.hub_kernel", description="Assemble the kernel for the hub."
    )
    parser.add_argument("folder", type=Path, help="a new or empty folder")
    identifiers = assemble(parser.parse_args().folder)
    print("\n".join(identifiers))


if __name__ == "__main__":
    main()
