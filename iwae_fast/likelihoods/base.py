"""The base class of likelihoods p(x | z)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import constraints

from ..ops.losses import IWAEResult, composed_iwae

ROUNDING = 1e-5
"""Tolerance at the ends of the support: a float32 that was divided by 255 may be 1.0000001."""


class Likelihood(nn.Module, ABC):
    """p(x | z) of independent features given the decoder's output. Its parameters, if any, are the model's.

    A decoder returns one tensor per entry of :attr:`outputs`: a single tensor if there is one entry, else a tuple in
    that order. :meth:`log_prob` does not check whether observations lie in the support (it would force a device
    synchronization); its result for others is unspecified. A model checks the first observations that it sees with
    :meth:`check_support`, and :func:`iwae_fast.evaluate.log_likelihood` checks all of them.

    A subclass sets :attr:`name` and :attr:`outputs` and defines :meth:`log_prob`, :meth:`mean` and, where draws are
    cheap, :meth:`sample`.
    """

    name: str
    outputs: tuple[str, ...]
    """Names of the tensors that the decoder returns."""
    support: constraints.Constraint = constraints.real
    """Support of one feature."""
    takes_integers = True
    """True if observations may have an integer dtype as well as a floating one."""

    @property
    def takes_linear_output(self) -> bool:
        """True if :meth:`log_prob` takes a :class:`LinearLayer` in place of the decoder's output."""
        return False

    @abstractmethod
    def log_prob(
        self, value: Tensor, output: Any, num_samples: int, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        """Compute log p(x | z_i), summed over features.

        Args:
            value: observations (B, ...), of D features each.
            output: the decoder's output for k B rows of latents, all observations of the first sample first.
            num_samples: k.
            mask: bool (B, D), True where observed. Masked features are ignored whatever their value, including NaN.
            backend: force a backend of the package by name, for likelihoods that use its ops.

        Returns:
            (k, B) in nats, float32, or float64 if any input is float64.

        Raises:
            TypeError, ValueError: the decoder's output does not match :attr:`outputs` or the shape of ``value``.
        """

    def iwae_loss(
        self,
        value: Tensor,
        output: Any,
        log_ratio: Tensor,
        mask: Tensor | None = None,
        reduction: str = "mean",
        backend: str | None = None,
    ) -> IWAEResult:
        """Compute minus the IWAE bound for a decoder's output, with the bounds and weights for diagnostics.

        By default :meth:`log_prob` and :func:`iwae_fast.log_mean_exp` are composed. A likelihood with a fused loss
        overrides this method; its result must be the same up to rounding.

        Args:
            value, output, mask, backend: as in :meth:`log_prob`.
            log_ratio: log p(z_i) - log q(z_i | x), (k, B).
            reduction: "mean" or "sum" over the observations, or "none".
        """
        log_prob = self.log_prob(value, output, len(log_ratio), mask, backend)
        return composed_iwae(log_prob, log_ratio, reduction, backend)

    def check_support(self, value: Tensor, mask: Tensor | None = None) -> None:
        """Raise ValueError if an observed feature lies outside the support. Forces a device synchronization.

        Args:
            value: observations (B, ...). NaN is accepted, and so are values outside the support by at most the rounding
                of a division.
            mask: bool, True where observed, broadcasting to the shape of ``value``.
        """
        entry = self.first_outside(value, mask)
        if entry is None:
            return
        found = value[entry].item()
        unit = _is_unit_interval(self.support) and 1.0 < found <= 255.0
        pixels = "; divide pixels from 0 to 255 by 255" if unit else ""
        raise ValueError(
            f"likelihood {self.name!r} takes {self.described_support()}, but x[{', '.join(map(str, entry))}] is "
            f"{found:g}{pixels}"
        )

    def first_outside(self, value: Tensor, mask: Tensor | None = None) -> tuple[int, ...] | None:
        """Return the index of the first observed feature outside the support, or None; see :meth:`check_support`."""
        support = self.support
        if support is constraints.real:
            return None
        fits = support.check(value) | value.isnan()
        if mask is not None:
            fits = fits | ~mask
        if fits.all():
            return None
        fits = fits | support.check(value - ROUNDING) | support.check(value + ROUNDING)
        return None if fits.all() else tuple((~fits).nonzero()[0].tolist())

    def described_support(self) -> str:
        """Return a description of the numbers that the support allows, such as "whole numbers of at least 0"."""
        return _described(self.support)

    @abstractmethod
    def mean(self, output: Any) -> Tensor:
        """Return E[x | z], (N, ...), for a decoder's output for N rows of latents."""

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        """Draw x for each row of a decoder's output, in the shape of :meth:`mean`."""
        raise NotImplementedError(f"likelihood {self.name!r} does not implement sample()")

    def reparameterized(self, output: Any, noise: Tensor) -> Tensor:
        """Return x as a differentiable function of a decoder's output for N rows and of standard normal noise (N, D).

        Raises ValueError if x is not a smooth function of normal noise.
        """
        raise ValueError(
            f"likelihood {self.name!r} does not have reparameterized draws: use a Gaussian one, such as 'gaussian'"
        )

    def expectations(self, output: Any) -> Tensor:
        """Return the quantities per row of a decoder's output, (N, S), whose averages over the posterior of z determine
        an imputation: by default E[x | z], with S = D."""
        return self.mean(output).flatten(1)

    def imputed(self, averages: Tensor) -> Tensor:
        """Return x, (B, D), for averages (B, S) of :meth:`expectations`."""
        return averages

    @property
    def unordered(self) -> Tensor | None:
        """The features that do not have a median, bool (D,), as classes do not; None if there are none."""
        return None

    def output_sizes(self, data_dim: int) -> dict[str, int]:
        """Return the number of elements per row of each of the :attr:`outputs`, for D features."""
        return dict.fromkeys(self.outputs, data_dim)

    def initial_biases(self, data_mean: Tensor) -> dict[str, Tensor]:
        """Return biases of output layers for which E[x | z] is the mean of the data (D,), by the output's name.

        Outputs without a simple formula are left out.
        """
        return {}

    encoder_takes_mask = False
    """True if :meth:`encoder_input` takes the mask of observed features, bool (B, ...) or None, as its second
    argument."""

    def encoder_input(self, x: Tensor) -> Tensor:
        """Scale observations for a dense encoder; unchanged by default."""
        return x

    def encoder_width(self, data_dim: int) -> int:
        """Return the number of columns of :meth:`encoder_input`, for D features."""
        return data_dim

    def extra_repr(self) -> str:
        return f"name={self.name!r}"


def _is_unit_interval(support: constraints.Constraint) -> bool:
    return (getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)) == (0, 1)


def _described(support: constraints.Constraint) -> str:
    """Return a description of the numbers that a constraint allows."""
    numbers = "whole numbers" if support.is_discrete else "numbers"
    low, high = getattr(support, "lower_bound", None), getattr(support, "upper_bound", None)
    if low is None:
        return f"{numbers} that satisfy {support}"
    return f"{numbers} of at least {low:g}" if high is None else f"{numbers} from {low:g} to {high:g}"


def by_sample(name: str, output: Any, num_samples: int, value: Tensor, per_feature: int = 1) -> Tensor:
    """Reshape (k B, ...) to (k, B, D per_feature), with D the number of features of the observations (B, ...)."""
    if not isinstance(output, Tensor):
        raise TypeError(f"the decoder's {name} must be a tensor, got {type(output).__name__}")
    rows = value.shape[0]  # len() would turn a symbolic batch size into a constant while tracing
    features = value.shape[1:].numel() * per_feature if rows else output.shape[1:].numel()
    if output.shape[0] != num_samples * rows or output.shape[1:].numel() != features:
        raise ValueError(
            f"the decoder's {name} {tuple(output.shape)} do not fit observations {tuple(value.shape)} "
            f"with k = {num_samples}: expected ({num_samples * rows}, ...) with {features} features"
        )
    return output.reshape(num_samples, rows, features)


def parts_of(output: Any, likelihood: Likelihood) -> tuple[Any, ...]:
    """Return a decoder's output as a tuple with one entry per output of the likelihood."""
    names = likelihood.outputs
    if len(names) == 1:
        return (output,)
    if not isinstance(output, tuple) or len(output) != len(names):
        got = type(output).__name__ + (f" of {len(output)}" if isinstance(output, tuple) else "")
        raise TypeError(
            f"a {likelihood.name.replace('-', ' ').capitalize()} decoder must return ({', '.join(names)}), got {got}"
        )
    return output


def parts_by_sample(likelihood: Likelihood, output: Any, num_samples: int, value: Tensor) -> list[Tensor]:
    """Reshape each of the decoder's outputs from (k B, ...) to (k, B, D)."""
    parts = parts_of(output, likelihood)
    return [by_sample(name, part, num_samples, value) for name, part in zip(likelihood.outputs, parts, strict=True)]


def observed(mask: Tensor | None, *tensors: Tensor) -> tuple[Tensor, ...]:
    """Replace masked entries by 0: multiplying by zero would keep NaN."""
    return tensors if mask is None else tuple(torch.where(mask, t, 0) for t in tensors)


def sum_observed(terms: Tensor, mask: Tensor | None) -> Tensor:
    """Sum over the features, without masked ones."""
    return observed(mask, terms)[0].sum(-1)
