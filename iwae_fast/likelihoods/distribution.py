"""A likelihood from any torch.distributions object."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from .base import Likelihood, sum_observed


class FromDistribution(Likelihood):
    """A likelihood that ``build`` makes from the decoder's output: ``FromDistribution(lambda o: Poisson(o.exp()))``.

    It is not fused: torch.distributions runs several operations per density, saves their inputs for the backward pass,
    and unless ``validate_args=False`` checks every value, which forces a device synchronization.

    Args:
        build: a function from the decoder's output (a tensor, or a tuple of tensors) to a distribution whose batch and
            event axes are those of the output. The output has leading axes (k, B) in :meth:`log_prob` and (N,)
            elsewhere, so axes should be counted from the back.
        outputs: names of the tensors that the decoder returns, of D elements per row each, for models that build a
            decoder.
        masked_value: a number in the support, which replaces masked features.
    """

    name = "distribution"

    def __init__(
        self,
        build: Callable[[Any], Distribution],
        outputs: Sequence[str] = ("output",),
        *,
        masked_value: float = 0.0,
    ) -> None:
        super().__init__()
        if not callable(build):
            raise TypeError(
                "build must be a function from a decoder's output to a torch.distributions object, got "
                f"{type(build).__name__}"
            )
        self.build = build
        self.outputs: tuple[str, ...] = tuple(outputs)
        self.masked_value = masked_value

    def log_prob(
        self, value: Tensor, output: Any, num_samples: int, mask: Tensor | None = None, backend: str | None = None
    ) -> Tensor:
        shape = (num_samples, len(value))
        if isinstance(output, tuple):
            distribution = self._distribution(tuple(_by_sample(part, shape) for part in output))
        else:
            distribution = self._distribution(_by_sample(output, shape))
        if mask is not None:
            mask = mask.view(value.shape)
            value = torch.where(mask, value, self.masked_value)
        wanted = (*shape, *value.shape[1:])
        if (*distribution.batch_shape, *distribution.event_shape) != wanted:
            raise ValueError(
                f"build made a distribution of shape {tuple(distribution.batch_shape)} over events "
                f"{tuple(distribution.event_shape)}, which does not fit observations {tuple(value.shape)} with "
                f"k = {num_samples}: expected {wanted} together"
            )
        if mask is not None and distribution.event_shape:
            raise ValueError(
                f"a mask needs features that are independent: build made events {tuple(distribution.event_shape)}, "
                "of which a part cannot be left out"
            )
        terms = distribution.log_prob(value)
        if mask is None:
            return terms.reshape(*shape, -1).sum(-1)
        return sum_observed(terms.flatten(2), mask.flatten(1))

    def mean(self, output: Any) -> Tensor:
        return self._distribution(output).mean

    def sample(self, output: Any, generator: torch.Generator | None = None) -> Tensor:
        """Draw x with torch's global generator: torch.distributions does not accept another one."""
        if generator is not None:
            raise ValueError(
                "generator must be None: torch.distributions draws with torch's global generator, which can be seeded"
            )
        return self._distribution(output).sample()

    def _distribution(self, output: Any) -> Distribution:
        distribution = self.build(output)
        if not isinstance(distribution, Distribution):
            raise TypeError(f"build must return a torch.distributions object, got {type(distribution).__name__}")
        return distribution


def _by_sample(output: Any, shape: tuple[int, int]) -> Tensor:
    if not isinstance(output, Tensor):
        raise TypeError(f"the decoder's output must be a tensor or a tuple of them, got {type(output).__name__}")
    if len(output) != shape[0] * shape[1]:
        raise ValueError(
            f"the decoder's output {tuple(output.shape)} must have one row per sample and observation, "
            f"{shape[0]} x {shape[1]}"
        )
    return output.unflatten(0, shape)
