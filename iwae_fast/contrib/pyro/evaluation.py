"""Log-weights of a Pyro model and guide, for :func:`iwae_fast.evaluate.log_likelihood`."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from torch import Tensor, nn

from ...evaluate import FromDraws
from ...evaluate.observations import Chunk
from ...evaluate.sources import LogWeightsOfChunk
from ...seeds import torch_seeded
from .elbo import IWAE_ELBO


class FromPyro(FromDraws):
    """A Pyro model whose proposal is a guide: ``iw.evaluate.log_likelihood(FromPyro(model, guide), x)``.

    Model and guide are called with the observations of a chunk, ``model(x, *context)``, for all of its samples at once,
    in a plate outside all others. Every observation must have an importance weight of its own: one plate of len(x)
    elements, or several, contain all sites. Latent variables may be discrete, and are drawn, not enumerated.

    Pyro draws by torch's generators, so the noise depends on the chunk size and on the split of observations into
    batches or ranks: see :class:`iwae_fast.evaluate.FromDraws`.

    Args:
        model, guide: Pyro programs with the same arguments.
        modules: the networks that they use, as for :class:`iwae_fast.evaluate.FromDraws`.
        max_plate_nesting: the largest number of nested plates in model and guide; found by running them once if not
            given.

    Raises:
        TypeError, ValueError: an argument is invalid; or in an evaluation, a site or plate does not fit.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        modules: nn.Module | Iterable[nn.Module] = (),
        *,
        max_plate_nesting: float = math.inf,
    ) -> None:
        for name, program in (("model", model), ("guide", guide)):
            if not callable(program):
                raise TypeError(f"{name} must be a Pyro program, a function or module, got {type(program).__name__}")
        super().__init__(self._log_weights, modules, (model, guide))
        self.model: Callable[..., Any] = model
        self.guide: Callable[..., Any] = guide
        self.max_plate_nesting: float = max_plate_nesting

    def prepared(self, chunk: Chunk, seed: int, step: int, num_steps: int) -> LogWeightsOfChunk:
        if chunk.mask is not None:
            raise ValueError("mask must be None for a Pyro model: pass it in context, for poutine.mask in the model")
        return super().prepared(chunk, seed, step, num_steps)

    def _log_weights(self, x: Tensor, num_samples: int, _: int, context: Sequence[Tensor] = ()) -> Tensor:
        arguments = (x, *context)
        if self.max_plate_nesting == math.inf:
            found = IWAE_ELBO()
            with torch_seeded(0, device=x.device):  # the noise of this run must not move that of the samples
                found._guess_max_plate_nesting(self.model, self.guide, arguments, {})
            self.max_plate_nesting = found.max_plate_nesting
        # Without a gradient every latent variable is allowed, which "rws" is the only one to say for any k.
        particles = IWAE_ELBO(num_samples, estimator="rws", max_plate_nesting=self.max_plate_nesting)
        log_weights = particles.log_weights(self.model, self.guide, *arguments)
        if log_weights.shape[1] != len(x):
            raise ValueError(
                f"the plates that contain all sites of model and guide must have one element per observation, "
                f"{len(x)}, got {log_weights.shape[1]}: declare independent observations by a plate of len(x) elements "
                "around all sites. With a latent variable outside of it there is one weight for all observations"
            )
        return log_weights
