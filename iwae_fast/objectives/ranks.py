"""The processes that compute an objective together: which samples and observations each of them takes.

Noise is a function of (seed, sample, observation), so each rank draws its own part of the noise of the whole. The
log-weights, (k, B) numbers, are the only tensors that ranks exchange: every rank then computes the same bound and the
same scales, and runs its own samples backward. Autograd records no collective. Gradients are left to the wrapper of the
module, such as DistributedDataParallel, whose average over ranks is the gradient of one process.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd import Function

from ..ops.function import applied
from ..ops.samples import seed_tensor
from .estimators import Scales

if TYPE_CHECKING:
    from torch.distributed import ProcessGroup
    from torch.distributed.device_mesh import DeviceMesh

DIMENSIONS = ("data", "sample")
"""The names of a mesh's dimensions: observations are divided along the first, samples along the second."""


class Share(NamedTuple):
    """The samples that a rank computes."""

    first: int
    size: int
    """Their number, at least 1, so that every parameter gets a gradient on every rank."""
    is_used: bool = True
    """False if there are fewer samples than ranks, and the sample of this rank is not used."""

    def of(self, scales: Scales) -> Scales:
        """Return the scales of these samples: 0 if they are not used."""

        def chosen(scale: Tensor) -> Tensor:
            own = scale[self.first : self.first + self.size]
            return own if self.is_used else torch.zeros_like(own)

        decoder = chosen(scales.decoder)
        return Scales(decoder, decoder if scales.encoder is scales.decoder else chosen(scales.encoder))


class Ranks:
    """A single process, which computes everything by itself."""

    num_sample_ranks = 1
    """Number of ranks among which the samples of an observation are divided."""

    def seed(self, seed: int | Tensor | None, device: torch.device) -> Tensor:
        """Return the seed that all ranks use, an int64 scalar."""
        return seed_tensor(seed, device)

    def first_observation(self, given: int | None, observations: int, device: torch.device) -> int:  # noqa: ARG002
        """Return the index of this rank's first observation in the batch, if it is not given."""
        return given or 0

    def share(self, num_samples: int) -> Share:
        """Return the samples of this rank, of ``num_samples``."""
        return Share(0, num_samples)

    def gather(self, own: Tensor, num_samples: int) -> Tensor:  # noqa: ARG002
        """Return the rows of all samples, (k, B), from those of this rank's share; those of other ranks do not have a
        graph."""
        return own

    def mean(self, by_observation: Tensor) -> Tensor:
        """Return the mean over the observations of all ranks, (...), of a tensor (B, ...)."""
        return by_observation.mean(0)

    def shard_reduction(self, reduction: str) -> str:
        """Return the reduction over this rank's observations that precedes :meth:`finish`."""
        return reduction

    def finish(self, loss: Tensor, observations: int, reduction: str, dataset_size: int | None) -> Tensor:  # noqa: ARG002
        """Return the loss of all ranks from that of this rank, reduced by :meth:`shard_reduction`."""
        return loss if dataset_size is None else loss * (dataset_size / max(observations, 1))


ONE_PROCESS = Ranks()


class MeshRanks(Ranks):
    """The processes of a device mesh: observations are divided along "data", samples along "sample".

    All ranks of a "sample" dimension get the same observations.

    Args:
        mesh: a torch DeviceMesh with ``mesh_dim_names`` ("data", "sample"), or one of these.

    Raises:
        TypeError, ValueError: another mesh.
    """

    def __init__(self, mesh: DeviceMesh) -> None:
        names = getattr(mesh, "mesh_dim_names", None)
        if not hasattr(mesh, "get_group"):
            raise TypeError(f"mesh must be a torch.distributed DeviceMesh, got {type(mesh).__name__}")
        if not names or set(names) - set(DIMENSIONS):
            raise ValueError(
                "mesh must have the dimensions 'data' and 'sample', or one of them, as in init_device_mesh(device, "
                f'(2, 4), mesh_dim_names=("data", "sample")), got {names}'
            )
        groups = {name: mesh.get_group(name) for name in names}
        self.data: ProcessGroup | None = groups.get("data")
        self.samples: ProcessGroup | None = groups.get("sample")
        self.size = mesh.size()
        self.num_sample_ranks = 1 if self.samples is None else self.samples.size()

    def seed(self, seed: int | Tensor | None, device: torch.device) -> Tensor:
        """Return the seed, drawn by the first rank and broadcast if it is not given."""
        drawn = seed_tensor(seed, device)
        if seed is None:
            for group in (self.samples, self.data):
                if group is not None:
                    dist.broadcast(drawn, group=group, group_src=0)
        return drawn

    def first_observation(self, given: int | None, observations: int, device: torch.device) -> int:
        """Return the number of observations on the data ranks before this one, unless the index is given.

        Forces a device synchronization if it is not given.
        """
        if given is not None or self.data is None:
            return given or 0
        own = torch.tensor([observations], device=device)
        counts = [torch.empty_like(own) for _ in range(self.data.size())]
        dist.all_gather(counts, own, group=self.data)
        return int(sum(counts[: self.data.rank()], start=torch.zeros_like(own)))

    def share(self, num_samples: int) -> Share:
        ranks = self.num_sample_ranks
        rank = 0 if self.samples is None else self.samples.rank()
        first, end = num_samples * rank // ranks, num_samples * (rank + 1) // ranks
        return Share(first, end - first) if end > first else Share(min(first, num_samples - 1), 1, is_used=False)

    def gather(self, own: Tensor, num_samples: int) -> Tensor:
        if self.samples is None or self.num_sample_ranks == 1:
            return own
        ranks = self.num_sample_ranks
        most = -(-num_samples // ranks)  # ranks have as many samples, or one fewer
        padded = own.detach().new_zeros(most, *own.shape[1:])
        padded[: len(own)] = own.detach()
        gathered = padded.new_empty(ranks, *padded.shape)
        dist.all_gather_into_tensor(gathered.flatten(0, 1), padded, group=self.samples)
        counts = [num_samples * (rank + 1) // ranks - num_samples * rank // ranks for rank in range(ranks)]
        return torch.cat([rows[:count] for rows, count in zip(gathered, counts, strict=True)])

    def mean(self, by_observation: Tensor) -> Tensor:
        total, count = self._totals(by_observation.detach().sum(0), len(by_observation))
        return (total / count).to(by_observation.dtype)

    def shard_reduction(self, reduction: str) -> str:
        return "none" if reduction == "none" else "sum"

    def finish(self, loss: Tensor, observations: int, reduction: str, dataset_size: int | None) -> Tensor:
        """Return the loss of the whole batch, with a gradient whose average over ranks is that of one process."""
        if reduction == "none":
            return _with_scaled_gradient(loss, loss.detach(), self.size)
        total, count = self._totals(loss.detach(), observations)
        factor = torch.ones_like(total)
        if reduction == "mean":
            factor = 1.0 / count
        elif dataset_size is not None:
            factor = dataset_size / count.clamp(min=1.0)
        return _with_scaled_gradient(loss, (total * factor).to(loss.dtype), (self.size * factor).to(loss.dtype))

    def _totals(self, own: Tensor, observations: int) -> tuple[Tensor, Tensor]:
        """Return the sum of a tensor, and of the number of observations, over the data ranks, in float64."""
        both = torch.cat([own.double().flatten(), own.new_tensor([observations], dtype=torch.float64)])
        if self.data is not None:
            dist.all_reduce(both, group=self.data)
        return both[:-1].view(own.shape), both[-1]


def _with_scaled_gradient(loss: Tensor, value: Tensor, factor: float | Tensor) -> Tensor:
    """Return a value whose gradient with respect to ``loss`` is a factor."""
    return applied(_ScaledGradient)(loss, value, factor)


class _ScaledGradient(Function):
    @staticmethod
    def forward(_: Tensor, value: Tensor, __: float | Tensor) -> Tensor:
        return value.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], _: Tensor) -> None:
        ctx.factor = inputs[2]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return grad * ctx.factor, None, None
