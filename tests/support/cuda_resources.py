"""A table of nvcc's machine code for the kernels of csrc/cuda: registers, spills, shared memory, widths of loads,
stores and asynchronous copies, the instructions of the loop with these copies, and the wait for the kernel ahead. It is
read from the built extension, and needs no GPU.

    python tests/support/cuda_resources.py [--write]

prints the table as CSV, or writes it to benchmarks/results/.
"""

from __future__ import annotations

import argparse
import csv
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from paths import ROOT
from sass import loop_with, wait_for_the_kernel_ahead, widths

from iwae_fast.backends.extension import MODULE

FIELDS = ("kernel", "sm", "registers", "spill_bytes", "shared_bytes", "loads", "stores", "copies", "loop", "wait")
RESULTS = ROOT / "benchmarks" / "results"


def tool() -> str | None:
    """Return the path of cuobjdump, from CUDA or from Triton, or None."""
    if (found := shutil.which("cuobjdump")) is not None:
        return found
    if (spec := find_spec("triton")) is None or spec.origin is None:
        return None
    inside = Path(spec.origin).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return str(inside) if inside.exists() else None


def missing() -> str | None:
    """Return the reason why no table can be made here, or None."""
    if not hasattr(MODULE, "cuda"):
        return "the extension was built without CUDA"
    return "there is no cuobjdump" if tool() is None else None


def compiler() -> str | None:
    """Return the version of nvcc, on which a table depends."""
    if (nvcc := shutil.which("nvcc")) is None:
        return None
    told = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    return re.search(r"release (\d+\.\d+)", told)[1]  # type: ignore[index]


def table_of(version: str) -> Path:
    return RESULTS / f"cuda-{version}-resources.csv"


def dump(option: str) -> str:
    return subprocess.run([tool() or "", option, MODULE.__file__], capture_output=True, text=True, check=True).stdout


def rows() -> list[dict[str, Any]]:
    code = {(sm, name): text for sm, name, text in by_kernel(dump("--dump-sass"))}
    usage = list(by_kernel(dump("--dump-resource-usage")))
    made = []
    for (sm, mangled, text), name in zip(usage, readable([name for _, name, _ in usage]), strict=True):
        used = dict(re.findall(r"(\w+):(\d+)", text))
        made.append(
            {
                "kernel": name,
                "sm": sm,
                "registers": int(used["REG"]),
                "spill_bytes": int(used["STACK"]) + int(used["LOCAL"]),
                "shared_bytes": int(used["SHARED"]),
                "loads": widths(code[sm, mangled], "LDG"),
                "stores": widths(code[sm, mangled], "STG"),
                "copies": widths(code[sm, mangled], "LDGSTS"),
                "loop": loop_with(code[sm, mangled], "LDGSTS") or "",
                "wait": wait_for_the_kernel_ahead(code[sm, mangled]),
            }
        )
    return sorted(made, key=lambda row: (row["sm"], row["kernel"]))


def by_kernel(listing: str) -> Iterator[tuple[int, str, str]]:
    """Yield architecture, mangled name and lines of each kernel in the output of cuobjdump."""
    for image in re.split(r"^(?=arch = sm_)", listing, flags=re.M)[1:]:
        architecture = int(image.split("sm_", 1)[1][:2])
        for part in re.split(r"Function\s*:?\s*(?=_Z)", image)[1:]:
            name, text = re.split(r"[:\s]", part, maxsplit=1)
            yield architecture, name, text


def readable(mangled: list[str]) -> list[str]:
    """Return demangled names, such as log_prob_kernel<BernoulliDensity<float>, Vector<BFloat16, 4>>."""
    told = subprocess.run(["c++filt"], input="\n".join(mangled), capture_output=True, text=True, check=True).stdout
    names = (name.split("(")[0].removeprefix("void ").replace("iwae::cuda::", "") for name in told.splitlines())
    return [name.replace(" >", ">").strip() for name in names]


def table() -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, FIELDS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows())
    return text.getvalue()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    if parser.parse_args().write:
        table_of(compiler() or "unknown").write_text(table())
    else:
        sys.stdout.write(table())


if __name__ == "__main__":
    main()
