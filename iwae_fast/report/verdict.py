"""What an evaluation's Pareto k-hat means for its likelihood, in a sentence or two."""

from __future__ import annotations

from typing import Any, NamedTuple

LIMIT = 0.7
"""Above it, an importance-sampled estimate converges too slowly to be trusted (Vehtari et al. 2024)."""
FEW, MOST = 0.05, 0.5
"""Parts of the observations."""


class Verdict(NamedTuple):
    """A judgment of how far a likelihood can be trusted."""

    grade: str
    """"good", "fair" or "poor"."""
    title: str
    text: str


EXPLANATION = (
    f"Pareto k-hat is the shape of the tail of an observation's importance weights: above {LIMIT} a few of the k samples "
    "carry the estimate, and more samples would still change it."
)


def judge(evaluation: dict[str, Any]) -> Verdict | None:
    """Judge the content of an ``evaluation.json``; None where k was too small for a tail."""
    heavy = evaluation["pareto_k_above_0.7"]
    if heavy is None:
        return None
    if heavy <= FEW:
        return Verdict(
            "good",
            "The test NLL can be trusted",
            f"Pareto k-hat is above {LIMIT} for {heavy:.0%} of the test observations: the importance weights have light "
            "tails, and more samples would hardly change the NLL.",
        )
    if heavy <= MOST:
        return Verdict(
            "fair",
            "The test NLL is a little too high",
            f"Pareto k-hat is above {LIMIT} for {heavy:.0%} of the test observations: for these a few of the k samples "
            "carry the estimate, and more samples would lower the NLL. Compare runs at the same k only.",
        )
    return Verdict(
        "poor",
        "The test NLL is an upper bound that more samples would lower",
        f"Pareto k-hat is above {LIMIT} for {heavy:.0%} of the test observations: a few of the k samples carry the "
        "estimate, since q(z | x) is far from the posterior. That is usual after little training. Compare runs at the "
        "same k only; a larger k shows how much the NLL still falls, and longer training or a better encoder lowers "
        "k-hat itself.",
    )
