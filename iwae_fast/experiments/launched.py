"""The environment of a process that torchrun, or a launcher like it, has started. Does not import torch."""

from __future__ import annotations

import os

LAUNCHED = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
"""Environment variables that such a process has."""


def number_of_processes() -> int:
    """Return the number of processes of this command: 1 unless a launcher has started more."""
    return number("WORLD_SIZE") if all(name in os.environ for name in LAUNCHED) else 1


def rank() -> int:
    """Return the number of this process, from 0, among those of this command."""
    return number("RANK") if number_of_processes() > 1 else 0


def command() -> str:
    """Return the beginning of a command line that starts as many processes of this program on one machine."""
    processes = number_of_processes()
    return "iwae-fast" if processes == 1 else f"torchrun --nproc-per-node {processes} -m iwae_fast"


def number(name: str) -> int:
    """Return an environment variable as a number; raises ValueError if it is not one."""
    text = os.environ[name]
    if not text.isdecimal():
        raise ValueError(f"the environment variable {name}, set by torchrun, must be a number, got {text!r}")
    return int(text)
