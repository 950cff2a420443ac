"""A VAE of the gene counts of single cells, with library size and batch as context."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Distribution

from .. import checks
from ..likelihoods import NegativeBinomial, ZeroInflatedNegativeBinomial
from ..modules import as_parameters
from .dense import DenseLayer, glorot, tanh_layers
from .vae import VAE

DISPERSIONS = ("gene", "gene-cell")


class CellVAE(VAE):
    """A VAE of molecule counts per gene in single cells, after scVI (Lopez et al. 2018).

    The mean of a count is the cell's library size times the gene's share of molecules, which the decoder computes from
    z by a softmax over genes. Counts are negative binomial, or zero-inflated.

    The context of observations x (B, G) is ``model.context_of(x)``: the logarithm of the library size, (B, 1), and with
    several batches of measurements the index of each cell's batch, (B,), as in
    ``objective(model, x, context=model.context_of(x, batch))``. Encoder and decoder get the batch as a one-hot vector,
    so that z need not represent it.

    Args:
        num_genes: G.
        latent_dim: the size of z.
        hidden_dims: the sizes of the encoder's dense tanh layers; the decoder mirrors them.
        num_batches: the number of batches of measurements (experiments, donors); 1 if there is nothing to correct.
        dispersion: the source of theta, where the variance of a count is mean + mean^2 / theta: "gene" is one parameter
            per gene (of the likelihood), "gene-cell" an output of the decoder.
        zero_inflated: True if the decoder also returns the logits of the probability that a count is missed.
        prior: see :class:`VAE`.
        backend: force a backend of the package by name.

    Raises:
        TypeError, ValueError: an argument is invalid; the message names it.
    """

    def __init__(
        self,
        num_genes: int,
        latent_dim: int = 10,
        hidden_dims: Sequence[int] = (128,),
        *,
        num_batches: int = 1,
        dispersion: str = "gene",
        zero_inflated: bool = False,
        prior: nn.Module | Distribution | None = None,
        backend: str | None = None,
    ) -> None:
        checks.positive("num_genes", num_genes)
        checks.positive("latent_dim", latent_dim)
        checks.positive("num_batches", num_batches)
        checks.one_of("dispersion", dispersion, DISPERSIONS)
        hidden = tuple(checks.positive("hidden_dims", size) for size in hidden_dims)
        kind = ZeroInflatedNegativeBinomial if zero_inflated else NegativeBinomial
        likelihood = kind(num_genes if dispersion == "gene" else None)
        extra = num_batches if num_batches > 1 else 0
        encoder = CellEncoder(num_genes, extra, hidden, latent_dim)
        decoder = CellDecoder(latent_dim, extra, hidden[::-1], num_genes, likelihood.outputs)
        glorot(encoder)
        glorot(decoder)
        super().__init__(encoder, decoder, likelihood, prior=prior, latent_dim=latent_dim, backend=backend)
        self.num_genes: int = num_genes
        self.num_batches: int = num_batches

    def context_of(self, x: Tensor, batch: Tensor | None = None) -> tuple[Tensor, ...]:
        """Return the context of counts (B, G): the logarithm of their sum per cell, (B, 1), of at least one molecule,
        and the batches if the model has several.

        Args:
            x: counts of a floating or integer dtype.
            batch: int64 (B,), from 0 to ``num_batches`` - 1; None if ``num_batches`` is 1.
        """
        if x.dim() != 2 or x.shape[1] != self.num_genes:
            raise ValueError(f"x must be counts (B, {self.num_genes}), got shape {tuple(x.shape)}")
        dtype = next(self.decoder.parameters()).dtype
        library = torch.log(x.sum(1, keepdim=True, dtype=torch.float64).clamp(min=1.0)).to(dtype)
        if self.num_batches == 1:
            if batch is not None:
                raise ValueError("batch must be None: the model has one batch (num_batches=1)")
            return (library,)
        if not isinstance(batch, Tensor) or batch.dtype != torch.int64 or batch.shape != x.shape[:1]:
            got = f"{batch.dtype} {tuple(batch.shape)}" if isinstance(batch, Tensor) else type(batch).__name__
            raise TypeError(f"batch must be an int64 tensor (B,) = ({len(x)},) for num_batches > 1, got {got}")
        if len(batch) and not 0 <= int(batch.min()) <= int(batch.max()) < self.num_batches:
            raise ValueError(
                f"batch must be from 0 to {self.num_batches - 1}, got {int(batch.min())} to {int(batch.max())}"
            )
        return library, batch

    def log_expression(self, z: Tensor, batch: Tensor | None = None) -> Tensor:
        """Return the logarithm of each gene's share of a cell's molecules, (N, G), for latents (N, Z), in a batch of
        measurements, int64 (N,), if the model has several."""
        decoder: CellDecoder = self.decoder  # type: ignore[assignment]
        return decoder.log_shares(decoder.features(as_parameters(decoder, z), *(() if batch is None else (batch,))))


class CellEncoder(nn.Module):
    """A network from counts, library size and batch to mean and log standard deviation of z, each (B, Z)."""

    def __init__(self, num_genes: int, num_batches: int, hidden_dims: Sequence[int], latent_dim: int) -> None:
        super().__init__()
        self.num_batches = num_batches
        self.hidden: nn.Sequential = tanh_layers((num_genes + num_batches, *hidden_dims))
        width = (num_genes + num_batches, *hidden_dims)[-1]
        self.mean: DenseLayer = DenseLayer(width, latent_dim)
        self.log_std: DenseLayer = DenseLayer(width, latent_dim)

    def forward(self, x: Tensor, log_library: Tensor, *batch: Tensor) -> tuple[Tensor, Tensor]:
        hidden = self.hidden(with_batch(torch.log1p(as_parameters(self, x)), self.num_batches, batch))
        return self.mean(hidden), self.log_std(hidden)


class CellDecoder(nn.Module):
    """A network from z, library size and batch to the outputs of a count likelihood, (N, G) each."""

    def __init__(
        self, latent_dim: int, num_batches: int, hidden_dims: Sequence[int], num_genes: int, outputs: Sequence[str]
    ) -> None:
        super().__init__()
        self.num_batches = num_batches
        self.hidden: nn.Sequential = tanh_layers((latent_dim + num_batches, *hidden_dims))
        width = (latent_dim + num_batches, *hidden_dims)[-1]
        self.shares: nn.Linear = nn.Linear(width, num_genes)
        self.others: nn.ModuleList = nn.ModuleList(nn.Linear(width, num_genes) for _ in outputs[1:])

    def features(self, z: Tensor, *batch: Tensor) -> Tensor:
        """Return the last hidden layer, (N, H)."""
        return self.hidden(with_batch(z, self.num_batches, batch))

    def log_shares(self, hidden: Tensor) -> Tensor:
        """Return the logarithm of each gene's share of the molecules, (N, G)."""
        return F.log_softmax(self.shares(hidden), -1)

    def forward(self, z: Tensor, log_library: Tensor, *batch: Tensor) -> Tensor | tuple[Tensor, ...]:
        hidden = self.features(z, *batch)
        log_mean = self.log_shares(hidden) + log_library
        return (log_mean, *(layer(hidden) for layer in self.others)) if len(self.others) else log_mean


def with_batch(features: Tensor, num_batches: int, batch: Sequence[Tensor]) -> Tensor:
    """Append the one-hot vectors of the batches to features (N, F), if the model has several."""
    if len(batch) != (1 if num_batches else 0):
        wanted = "(log_library, batch)" if num_batches else "(log_library,)"
        raise ValueError(f"context must be {wanted}, as model.context_of returns it, got {1 + len(batch)} tensors")
    if not num_batches:
        return features
    # Not F.one_hot, which makes the host wait for a GPU to check the indices.
    one_hot = batch[0].unsqueeze(-1) == torch.arange(num_batches, device=features.device)
    return torch.cat([features, one_hot.to(features.dtype)], -1)
