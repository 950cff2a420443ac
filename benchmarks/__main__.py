"""``python -m benchmarks [--output FILE.csv] [--rounds N]``: all works, their table, their CSV."""

from __future__ import annotations

import argparse
from pathlib import Path

from . import bernoulli_iwae_loss
from .harness import measure, table, write


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results/cpu.csv"))
    parser.add_argument("--rounds", type=int, default=200)
    arguments = parser.parse_args()
    rows = [row for work in bernoulli_iwae_loss.works() for row in measure(work, arguments.rounds)]
    write(rows, arguments.output)
    print(table(rows))
    print(f"\nwritten to {arguments.output}")


if __name__ == "__main__":
    main()
