"""Analysis of a GPU's disassembled machine code."""

from __future__ import annotations

import re
from collections import Counter


def widths(code: str, instruction: str) -> str:
    """Return the number of global loads or stores per width in bytes per thread, widest first, such as "8x16 2x4"."""
    counts = Counter(bytes_of(suffix) for suffix in re.findall(rf"\b{instruction}\.E((?:\.\w+)*)", code))
    return " ".join(f"{count}x{size}" for size, count in sorted(counts.items(), reverse=True))


def bytes_of(suffix: str) -> int:
    for part, size in (("128", 16), ("64", 8), ("U16", 2), ("S16", 2), ("U8", 1), ("S8", 1)):
        if part in suffix.split("."):
            return size
    return 4
