"""Log-weights of a model that is written with torch.distributions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution, Independent, Normal

from ..models.draw import Draw
from ..models.posteriors import DiagonalGaussian, drawn_in_blocks
from .observations import Chunk
from .sources import LogWeightsOfChunk, Source, checked_log_weights


class FromDistributions(Source):
    """A model given by its proposal, a torch.distributions object, and by its joint log-density.

    The proposal is built once per chunk of observations. The noise of a Normal, in Independent or not, is a function of
    (seed, sample, observation), so the result does not depend on the chunk size, batches or ranks, up to rounding.
    Other distributions draw by torch's generators, four samples at a time: their noise does not depend on the chunk
    size, but on the split of observations into batches or ranks.

    Args:
        posterior: a function x -> q(z | x), a Distribution with the axes (B, ...) in batch and event shape. All axes
            after the first are those of one z.
        log_joint: a function (x, z) -> log p(x, z), (k, B) in nats, float32 or float64, for z (k, B, ...).
        modules: as for :class:`iwae_fast.evaluate.FromDraws`.

    If the evaluation is given ``context``, its tensors are further arguments of both functions.

    Raises:
        TypeError, ValueError: an argument is invalid; or in an evaluation, a function returns something else.
    """

    def __init__(
        self,
        posterior: Callable[..., Distribution],
        log_joint: Callable[..., Tensor],
        modules: nn.Module | Iterable[nn.Module] = (),
    ) -> None:
        super().__init__(modules, (posterior, log_joint))
        for name, function in (("posterior", posterior), ("log_joint", log_joint)):
            if not callable(function):
                raise TypeError(f"{name} must be a function, got {type(function).__name__}")
        self.posterior: Callable[..., Distribution] = posterior
        self.log_joint: Callable[..., Tensor] = log_joint

    def prepared(self, chunk: Chunk, seed: int, step: int, num_steps: int) -> LogWeightsOfChunk:  # noqa: ARG002
        if chunk.mask is not None:
            raise ValueError("mask must be None for FromDistributions: pass it in context")
        x = chunk.x
        q = sampler(self.posterior(x, *chunk.context), len(x), "posterior(x)")
        key = torch.full((), seed, dtype=torch.int64, device=x.device)

        def log_weights(first: int, count: int) -> Tensor:
            z, log_q = q(Draw(key, count, first, chunk.first))
            log_p = checked_log_weights("log_joint", self.log_joint(x, z, *chunk.context), count, x)
            return log_p - log_q

        return log_weights


def sampler(distribution: Any, rows: int, name: str, stream: int = 0) -> Callable[[Draw], tuple[Tensor, Tensor]]:
    """Return a function that draws z, (k, B, ...), with log q(z), (k, B) in nats.

    Args:
        distribution: a distribution whose axes are (B, ...).
        rows: B.
        name: the name of the distribution in errors.
        stream: the stream of the noise.

    Raises:
        TypeError, ValueError: the distribution is something else.
    """
    if not isinstance(distribution, Distribution):
        raise TypeError(f"{name} must be a torch.distributions.Distribution, got {type(distribution).__name__}")
    shape = (*distribution.batch_shape, *distribution.event_shape)
    if distribution.batch_shape[:1] != (rows,):
        raise ValueError(
            f"{name} must have the batch axes (B = {rows}, ...), got a {type(distribution).__name__} with batch_shape "
            f"{tuple(distribution.batch_shape)} and event_shape {tuple(distribution.event_shape)}"
        )
    base = distribution
    while type(base) is Independent:
        base = base.base_dist
    if type(base) is Normal:
        gaussian = DiagonalGaussian(base.loc.reshape(rows, -1), base.scale.log().reshape(rows, -1))

        def draw_gaussian(draw: Draw) -> tuple[Tensor, Tensor]:
            z = gaussian.draw(draw, None, stream)
            return z.reshape(draw.num_samples, *shape), gaussian.log_prob(z, None)

        return draw_gaussian

    def draw(draw: Draw) -> tuple[Tensor, Tensor]:
        z = drawn_in_blocks(distribution, draw, stream)
        return z, distribution.log_prob(z).reshape(draw.num_samples, rows, -1).sum(-1)

    return draw
