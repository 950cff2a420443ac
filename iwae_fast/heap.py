"""Large blocks of memory, used again instead of returned."""

from __future__ import annotations

import torch

BLOCK = 2**25 - 2**13
"""Bytes: just below the largest block, 32 MiB, from which glibc learns."""

_done = False


def keep_large_blocks() -> None:
    """Let the C library keep freed blocks of up to 32 MiB for the next ones, once in a process.

    glibc returns large blocks to the operating system until the first one of their size was freed, and again whenever
    twice as much is free; the fresh pages that follow cost an evaluation a tenth of its time. So one as large as it
    learns from is asked for and freed, which touches no memory. Other C libraries do not mind.
    """
    global _done
    if not _done and not torch.compiler.is_compiling():
        torch.empty(BLOCK, dtype=torch.uint8)
        _done = True
