"""Judgment of the reliability of an estimated likelihood by its Pareto k-hat."""

from __future__ import annotations

from typing import Any, NamedTuple

LIMIT = 0.7
"""Pareto k-hat above which an importance-sampled estimate converges too slowly to be trusted (Vehtari et al. 2024)."""
FEW, MOST = 0.05, 0.5
"""Fractions of the observations above LIMIT up to which the grade is "good" and "fair"."""


class Verdict(NamedTuple):
    """A judgment of the reliability of an estimated likelihood."""

    grade: str
    """"good", "fair" or "poor"."""
    title: str
    text: str


def judge(evaluation: dict[str, Any]) -> Verdict | None:
    """Judge the content of an ``evaluation.json``; return None if k was too small to fit a tail."""
    heavy = evaluation["pareto_k_above_0.7"]
    if heavy is None:
        return None
    found = f"Pareto k-hat, the shape of the tail of the importance weights, is above {LIMIT} for {heavy:.0%} of the "
    found += f"{evaluation['observations']} test observations"
    undefined = evaluation["pareto_k_undefined"]
    if undefined:
        found += f" and undefined for {undefined}"
    if heavy <= FEW < undefined / evaluation["observations"]:
        return Verdict(
            "fair",
            "The test NLL cannot be judged for every observation",
            f"{found}: their largest weights are too few or too similar to fit a tail, as with few binary latents. The "
            "effective sample size, and the NLL at a larger k, are more informative.",
        )
    if heavy <= FEW:
        return Verdict(
            "good",
            "The test NLL can be trusted",
            f"{found}: the weights have light tails, and more samples would hardly change the NLL.",
        )
    few_samples = f"a few of the k = {evaluation['k']} samples carry the estimate"
    if heavy <= MOST:
        return Verdict(
            "fair",
            "The test NLL is a little too high",
            f"{found}: for these {few_samples}, and more samples would lower the NLL. Compare runs only at the same k.",
        )
    return Verdict(
        "poor",
        "The test NLL is an upper bound that more samples would lower",
        f"{found}: {few_samples}, since q(z | x) is far from the posterior, as it often is after little training. "
        "Compare runs only at the same k. A larger k shows how much the NLL still falls; longer training or a better "
        "encoder lowers k-hat itself.",
    )
