"""Analysis of a GPU's disassembled machine code."""

from __future__ import annotations

import re
from collections import Counter

BYTES_OF_CODE = 16
"""The size of an instruction since sm_70."""


def widths(code: str, instruction: str) -> str:
    """Return the number of global loads or stores per width in bytes per thread, widest first, such as "8x16 2x4"."""
    counts = Counter(bytes_of(suffix) for suffix in re.findall(rf"\b{instruction}\.E((?:\.\w+)*)", code))
    return " ".join(f"{count}x{size}" for size, count in sorted(counts.items(), reverse=True))


def bytes_of(suffix: str) -> int:
    for part, size in (("128", 16), ("64", 8), ("U16", 2), ("S16", 2), ("U8", 1), ("S8", 1)):
        if part in suffix.split("."):
            return size
    return 4


def wait_for_the_kernel_ahead(code: str) -> str:
    """Return "first" if a kernel waits for the one ahead of it in the stream before it reads or writes global memory,
    "late" if it does so afterward, and "" if it does not wait."""
    found = re.search(r"\bACQBULK\b|\b(?:LDG|STG|LDGSTS|UBLKCP|ATOMG?|REDG?|CCTL)\b", code)
    if "ACQBULK" not in code or found is None:
        return ""
    return "first" if found[0] == "ACQBULK" else "late"


def loop_with(code: str, instruction: str) -> int:
    """Return the number of instructions of the shortest loop that contains an instruction, 0 without one.

    Both sides of every branch count: at most as many run per turn.
    """
    found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(?:@!?\w+\s+)?([A-Z][\w.]*)([^;]*);", code)
    addresses = [int(address, 16) for address, name, _ in found if name.startswith(instruction)]
    sizes = []
    for address, name, operands in found:
        target = re.search(r"0x([0-9a-f]+)", operands)
        if not name.startswith("BRA") or target is None:
            continue
        first, last = int(target[1], 16), int(address, 16)
        if any(first <= own <= last for own in addresses):
            sizes.append(last - first + BYTES_OF_CODE)
    return min(sizes, default=0) // BYTES_OF_CODE
