"""``python -m benchmarks.budgets --output FILE.csv``: the cost of a budget in test NLL, from runs paired by seed.

Runs with the same seed share initial weights, order of images, pixels and noise: only the choice of samples differs. A
run whose row is in the file is not repeated, so the command can be interrupted and restarted.
"""

from __future__ import annotations

import argparse
import csv
import math
import statistics
import tempfile
from pathlib import Path

import torch

from iwae_fast import data
from iwae_fast.experiments.config import TrainConfig
from iwae_fast.experiments.evaluate.results import evaluate_run
from iwae_fast.experiments.train import training
from iwae_fast.experiments.train.runs import create_run, open_run, trained_model

FIELDS = (
    *("dataset", "bound", "estimator", "k", "budget", "seed", "epochs", "steps", "nll", "std_error", "eval_k"),
    *("train_seconds", "threads", "torch"),
)
T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
"""Two-sided 95 % points of Student's t, by the number of pairs."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.budgets", description=__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--estimator", default="reparameterized")
    parser.add_argument("--budgets", default="all,8", help="comma-separated budgets; 'all' for all samples")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--k", type=int, default=50)
    parser.add_argument("--eval-k", type=int, default=1000)
    arguments = parser.parse_args()
    images = data.load(arguments.dataset)
    done = {(row["budget"], row["seed"], row["estimator"], row["k"], row["epochs"]) for row in read(arguments.output)}
    for seed in range(arguments.seeds):
        for budget in arguments.budgets.split(","):
            settings = (budget, str(seed), arguments.estimator, str(arguments.k), str(arguments.epochs))
            if settings not in done:
                append(arguments.output, one_run(arguments, images, budget, seed))
    print(comparison(read(arguments.output)))


def one_run(arguments: argparse.Namespace, images: data.ImageData, budget: str, seed: int) -> dict[str, object]:
    """Train and evaluate, and return the row."""
    config = TrainConfig.preset(
        arguments.dataset,
        epochs=arguments.epochs,
        k=arguments.k,
        estimator=arguments.estimator,
        budget=None if budget == "all" else int(budget),
        seed=seed,
    )
    with tempfile.TemporaryDirectory() as folder:
        run = create_run(Path(folder) / "run", config)
        training.train(config, run, images)
        run, checkpoint = open_run(run.folder)
        result = evaluate_run(run, checkpoint, trained_model(checkpoint), images, k=arguments.eval_k)
    return {
        "dataset": config.dataset,
        "bound": config.bound,
        "estimator": config.estimator,
        "k": config.k,
        "budget": budget,
        "seed": seed,
        "epochs": config.epochs,
        "steps": checkpoint.step,
        "nll": result["nll"],
        "std_error": result["std_error"],
        "eval_k": arguments.eval_k,
        "train_seconds": round(checkpoint.seconds, 1),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
    }


def comparison(rows: list[dict[str, str]]) -> str:
    """Describe the mean paired difference of each budget to all samples, with its 95 % interval."""
    nll = {(row["budget"], row["seed"]): float(row["nll"]) for row in rows}
    lines = []
    for budget in sorted({budget for budget, _ in nll} - {"all"}, key=int):
        differences = [
            value - nll["all", seed] for (b, seed), value in nll.items() if b == budget and ("all", seed) in nll
        ]
        if len(differences) > 1:
            half = T_95[len(differences)] * statistics.stdev(differences) / math.sqrt(len(differences))
            mean = statistics.mean(differences)
            lines.append(f"budget {budget}: {mean:+.3f} ± {half:.3f} nats in {len(differences)} pairs")
    return "\n".join(lines)


def read(path: Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def append(path: Path, row: dict[str, object]) -> None:
    new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, FIELDS, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


if __name__ == "__main__":
    main()
