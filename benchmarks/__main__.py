"""``python -m benchmarks``: measure providers side by side; tables, comparisons and pictures of the results."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from . import catalogue, fused_step, overlap, predict, rows, run, targets
from .compare import compare
from .fastest import fastest
from .kernel_model import read_counts
from .summary import summary
from .table import table

COMMANDS = ("run", "compile", "compare", "table", "summary", "targets", "fastest", "predict", "overlap", "plot")


def main(arguments: list[str] | None = None) -> int:
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] not in (*COMMANDS, "-h", "--help"):
        given.insert(0, "run")  # the default command
    chosen = parser().parse_args(given)
    if chosen.command == "run":
        limits = (chosen.rounds, chosen.only, chosen.quick, chosen.append, chosen.seconds)
        return run.run(chosen.device, chosen.output, *limits)
    if chosen.command == "compile":
        run.compile_all(chosen.only)
    elif chosen.command == "compare":
        print(compare(rows.read(chosen.old), rows.read(chosen.new)))
    elif chosen.command == "table":
        print(table(rows.read(chosen.results)))
    elif chosen.command == "summary":
        print(summary(rows.read(chosen.results)))
    elif chosen.command == "targets":
        print(targets.table(catalogue.GPU_TARGETS, rows.read(chosen.results)))
    elif chosen.command == "fastest":
        print(fastest(rows.read(chosen.results)))
    elif chosen.command == "predict":
        predictions = predict.predict(read_counts(chosen.launches))
        if not chosen.results:
            predict.write(predictions)
            fused_step.write()
        print(predict.comparison(predictions, [row for each in chosen.results for row in rows.read(each)]))
    elif chosen.command == "overlap":
        print(overlap.told(chosen.models))
    else:
        from .plot import draw

        draw(rows.read(chosen.results), chosen.picture)
    return 0


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    commands = whole.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("run", help="measure (the default command)")
    measuring.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    measuring.add_argument("--output", type=Path, help="a .csv file; a .json file is written next to it")
    measuring.add_argument("--rounds", type=int, help="maximum number of rounds per workload")
    measuring.add_argument("--only", default="", metavar="REGEX", help="run only workloads whose name matches")
    measuring.add_argument("--quick", action="store_true", help="fewer workloads and rounds, about two minutes")
    measuring.add_argument("--append", action="store_true", help="keep the existing rows of the output")
    measuring.add_argument("--seconds", type=float, help="start no further workload after this time")
    compiling = commands.add_parser("compile", help="compile what the workloads of a GPU need, and time nothing")
    compiling.add_argument("--only", default="", metavar="REGEX", help="only workloads whose name matches")
    comparing = commands.add_parser("compare", help="compare two results")
    comparing.add_argument("old", type=Path)
    comparing.add_argument("new", type=Path)
    tabulating = commands.add_parser("table", help="print results as Markdown")
    tabulating.add_argument("results", type=Path)
    summarising = commands.add_parser("summary", help="print one line per workload as Markdown, one column per rival")
    summarising.add_argument("results", type=Path)
    judging = commands.add_parser("targets", help="check results of a GPU against the targets")
    judging.add_argument("results", type=Path)
    counting = commands.add_parser("fastest", help="count the rows in which this package is fastest")
    counting.add_argument("results", type=Path)
    predicting = commands.add_parser(
        "predict", help="predict the times of ops on an H100, or compare results with them"
    )
    predicting.add_argument(
        "results", type=Path, nargs="*", help="measured results; without any, predictions are written"
    )
    predicting.add_argument("--launches", type=Path, default=predict.COUNTS, help="the kernels' counts")
    overlapping = commands.add_parser("overlap", help="predict the time of many models side by side on an H100")
    overlapping.add_argument("--models", type=int, default=overlap.MODELS)
    plotting = commands.add_parser("plot", help="draw speed-ups over torch eager")
    plotting.add_argument("results", type=Path)
    plotting.add_argument("picture", type=Path)
    return whole


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
