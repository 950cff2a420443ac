"""Published figures: negative log-likelihoods in nats, and active units if they are given."""

from __future__ import annotations

from typing import NamedTuple


class Figure(NamedTuple):
    """A published figure."""

    nll: float
    units: str | None = None
    """Active units, per layer if there are several."""


VAE, IWAE = "VAE", "IWAE"

Place = tuple[str, str, int, int]
"""Data set, bound, stochastic layers, k."""

BURDA_TABLE_1: dict[Place, Figure] = {
    ("mnist", VAE, 1, 1): Figure(86.76, "19"),
    ("mnist", VAE, 1, 5): Figure(86.47, "20"),
    ("mnist", VAE, 1, 50): Figure(86.35, "20"),
    ("mnist", VAE, 2, 1): Figure(85.33, "16+5"),
    ("mnist", VAE, 2, 5): Figure(85.01, "17+5"),
    ("mnist", VAE, 2, 50): Figure(84.78, "17+5"),
    ("mnist", IWAE, 1, 1): Figure(86.76, "19"),
    ("mnist", IWAE, 1, 5): Figure(85.54, "22"),
    ("mnist", IWAE, 1, 50): Figure(84.78, "25"),
    ("mnist", IWAE, 2, 1): Figure(85.33, "16+5"),
    ("mnist", IWAE, 2, 5): Figure(83.89, "21+5"),
    ("mnist", IWAE, 2, 50): Figure(82.90, "26+7"),
    ("omniglot", VAE, 1, 1): Figure(108.11, "28"),
    ("omniglot", VAE, 1, 5): Figure(107.62, "28"),
    ("omniglot", VAE, 1, 50): Figure(107.80, "28"),
    ("omniglot", VAE, 2, 1): Figure(107.58, "28+4"),
    ("omniglot", VAE, 2, 5): Figure(106.31, "30+5"),
    ("omniglot", VAE, 2, 50): Figure(106.30, "30+5"),
    ("omniglot", IWAE, 1, 1): Figure(108.11, "28"),
    ("omniglot", IWAE, 1, 5): Figure(106.12, "34"),
    ("omniglot", IWAE, 1, 50): Figure(104.67, "41"),
    ("omniglot", IWAE, 2, 1): Figure(107.56, "30+5"),
    ("omniglot", IWAE, 2, 5): Figure(104.79, "38+6"),
    ("omniglot", IWAE, 2, 50): Figure(103.38, "44+7"),
}
"""Burda, Grosse & Salakhutdinov (2016), Table 1."""

BURDA_TABLE_2 = {
    "VAE": Figure(86.76, "19"),
    "VAE, then IWAE": Figure(84.88, "22"),
    "IWAE": Figure(84.78, "25"),
    "IWAE, then VAE": Figure(86.02, "23"),
}
"""Burda, Grosse & Salakhutdinov (2016), Table 2: MNIST, one stochastic layer, the objective switched."""

BURDA_TABLE_3: dict[Place, Figure] = {
    ("binarized-mnist", IWAE, 1, 1): Figure(88.71),
    ("binarized-mnist", IWAE, 1, 5): Figure(87.63),
    ("binarized-mnist", IWAE, 1, 50): Figure(87.10),
    ("binarized-mnist", IWAE, 2, 1): Figure(88.08),
    ("binarized-mnist", IWAE, 2, 5): Figure(86.17),
    ("binarized-mnist", IWAE, 2, 50): Figure(85.32),
}
"""Burda, Grosse & Salakhutdinov (2016), Table 3: fixed binarization."""

DD2434_TABLE_1: dict[Place, Figure] = {
    ("mnist", VAE, 1, 1): Figure(87.68),
    ("mnist", IWAE, 1, 1): Figure(87.68),
    ("omniglot", VAE, 1, 1): Figure(111.85),
    ("omniglot", IWAE, 1, 1): Figure(111.88),
    ("mnist", VAE, 1, 5): Figure(87.84),
    ("mnist", IWAE, 1, 5): Figure(85.76),
    ("omniglot", VAE, 1, 5): Figure(110.98),
    ("omniglot", IWAE, 1, 5): Figure(102.55),
    ("mnist", VAE, 1, 50): Figure(87.40),
    ("mnist", IWAE, 1, 50): Figure(84.88),
    ("omniglot", VAE, 1, 50): Figure(109.91),
    ("omniglot", IWAE, 1, 50): Figure(99.94),
    ("mnist", VAE, 2, 1): Figure(86.87),
    ("mnist", IWAE, 2, 1): Figure(86.88),
    ("omniglot", VAE, 2, 1): Figure(114.66),
    ("omniglot", IWAE, 2, 1): Figure(114.67),
    ("mnist", VAE, 2, 5): Figure(90.94),
    ("mnist", IWAE, 2, 5): Figure(84.78),
    ("omniglot", VAE, 2, 5): Figure(110.10),
    ("omniglot", IWAE, 2, 5): Figure(104.71),
    ("mnist", VAE, 2, 50): Figure(87.60),
    ("mnist", IWAE, 2, 50): Figure(83.85),
    ("omniglot", VAE, 2, 50): Figure(108.49),
    ("omniglot", IWAE, 2, 50): Figure(102.52),
}
"""Table of both data sets in a reproduction report (DD2434, 2024)."""

IWAER_TABLE_1 = {
    ("mnist", "dense"): Figure(95.182),
    ("mnist", "iwaer"): Figure(94.346),
    ("mnist", "iwaer-rec"): Figure(94.709),
    ("omniglot", "dense"): Figure(118.771),
    ("omniglot", "iwaer"): Figure(118.540),
    ("omniglot", "iwaer-rec"): Figure(118.647),
}
"""Importance-weighted autoencoders with random neural network parameters, Table 1: data set, network; five trials."""
