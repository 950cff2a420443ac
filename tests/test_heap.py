from __future__ import annotations

import sys

import pytest
from fresh import run

SCRIPT = """
import resource, torch
from iwae_fast.heap import keep_large_blocks

def faults(tune):
    if tune:
        keep_large_blocks()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(50):
        [torch.empty(2**21).fill_(1.0) for _ in range(2)]  # 8 MiB each
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(faults(False), faults(True))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="it is glibc that learns")
def test_freed_blocks_are_used_again() -> None:
    result = run(SCRIPT)
    before, after = map(int, result.stdout.split())
    # Two blocks of 4096 pages of 4 KiB, once; a C library or an allocator that keeps them anyway is as good.
    assert after <= max(before / 4, 5000)
