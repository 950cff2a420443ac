"""Dense layers whose weights and biases are independent Gaussians."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Shape = tuple[int, int, int]
"""(samples, rows, columns)."""

Noise = Callable[[int, Shape], Tensor]
"""A function from the index of a module and a shape to standard normal numbers."""


class RandomLinear(nn.Module):
    """A linear layer with independent Gaussian weights and biases, W ~ N(mean, exp(log_std)^2).

    The means of weights are initialized Glorot-uniform and those of biases with 0, all log standard deviations with
    ``log_std``.
    """

    def __init__(self, inputs: int, outputs: int, log_std: float) -> None:
        super().__init__()
        self.weight_mean: nn.Parameter = nn.Parameter(nn.init.xavier_uniform_(torch.empty(outputs, inputs)))
        self.bias_mean: nn.Parameter = nn.Parameter(torch.zeros(outputs))
        self.weight_log_std: nn.Parameter = nn.Parameter(torch.full((outputs, inputs), log_std))
        self.bias_log_std: nn.Parameter = nn.Parameter(torch.full((outputs,), log_std))

    def forward(
        self,
        value: Tensor,
        noise: Callable[[Shape], Tensor] | None = None,
        num_samples: int = 1,
        local: bool = True,
    ) -> Tensor:
        """Apply the layer at the means of the weights, or if noise is given with draws from :meth:`local` or
        :meth:`shared`."""
        if noise is None:
            return self._at_means(value)
        return (self.local if local else self.shared)(value, noise, num_samples)

    def _at_means(self, value: Tensor) -> Tensor:
        return F.linear(value, self.weight_mean, self.bias_mean)

    def shared(self, value: Tensor, noise: Callable[[Shape], Tensor], num_samples: int) -> Tensor:
        """Map (B, H) or (k, B, H) to (k, B, M) with new weights per sample, shared by all observations."""
        outputs, inputs = self.weight_mean.shape
        eps = noise((num_samples, outputs, inputs + 1)).to(self.weight_mean.dtype)
        weight = torch.addcmul(self.weight_mean, torch.exp(self.weight_log_std), eps[..., :-1])
        bias = torch.addcmul(self.bias_mean, torch.exp(self.bias_log_std), eps[..., -1])
        if value.dim() == 2:
            # One matrix product for all samples: their weights are stacked as the rows of one matrix.
            product = F.linear(value, weight.flatten(0, 1)).unflatten(-1, (num_samples, outputs)).transpose(0, 1)
            return product + bias[:, None]
        return torch.baddbmm(bias[:, None], value, weight.transpose(1, 2))

    def local(self, value: Tensor, noise: Callable[[Shape], Tensor], num_samples: int) -> Tensor:
        """Map (B, H) or (k, B, H) to (k, B, M) with independent weights per sample and observation.

        The output of a layer with independent Gaussian weights is Gaussian, so it is drawn instead of the weights
        (Kingma, Salimans & Welling 2015).
        """
        mean = self._at_means(value)
        variance = F.linear(value.square(), torch.exp(2.0 * self.weight_log_std), torch.exp(2.0 * self.bias_log_std))
        eps = noise((num_samples, *mean.shape[-2:])).to(mean.dtype)
        return torch.addcmul(mean, torch.sqrt(variance), eps)


class RandomNetwork(nn.Sequential):
    """A sequence of :class:`RandomLinear` layers of the given sizes with tanh between them.

    ``local`` selects how weights are drawn: see :class:`iwae_fast.models.RandomWeightsVAE`.
    """

    def __init__(self, sizes: Sequence[int], local: bool, log_std: float) -> None:
        layers = [RandomLinear(inputs, outputs, log_std) for inputs, outputs in pairwise(sizes)]
        super().__init__(*[module for layer in layers for module in (nn.Tanh(), layer)][1:])
        self.local = local

    @property
    def output(self) -> RandomLinear:
        """The last layer."""
        *_, last = self
        return cast(RandomLinear, last)

    def forward(self, value: Tensor, noise: Noise | None = None, num_samples: int = 1) -> Tensor:
        """Map (..., H) to (..., M) at the means of the weights, or with noise (B, H) or (k, B, H) to (k, B, M) with
        newly drawn weights; ``noise`` is called once per layer."""
        for index, module in enumerate(self):
            if noise is not None and isinstance(module, RandomLinear):
                # Latents and noise are at least float32, also if the weights are in half precision.
                value = module(value.to(module.weight_mean.dtype), partial(noise, index), num_samples, self.local)
            else:
                value = module(value)
        return value
