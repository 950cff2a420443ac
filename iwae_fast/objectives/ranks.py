"""The processes that compute an objective together: which samples and observations each of them takes.

Noise is a function of (seed, sample, observation), so each rank draws its own part of the noise of the whole. The
log-weights, (k, B) numbers, are the only tensors that ranks exchange: every rank then computes the same bound and the
same scales, and runs its own samples backward. Autograd records no collective. Gradients are left to the wrapper of the
module, such as DistributedDataParallel, whose average over ranks is the gradient of one process.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

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


def part(total: int, rank: int, ranks: int) -> tuple[int, int]:
    """Return the first index and the end of a rank's part; parts differ by at most one."""
    return total * rank // ranks, total * (rank + 1) // ranks


class Share(NamedTuple):
    """The samples that a rank computes."""

    first: int
    size: int
    """Their number, at least 1, so that every parameter gets a gradient on every rank."""
    is_used: bool = True
    """False if there are fewer samples than ranks, and the sample of this rank is not used."""

    def of(self, scales: Scales) -> Scales:
        """Return the scales of these samples: 0 if they are not used."""

        decoder = self.rows(scales.decoder)
        return Scales(decoder, decoder if scales.encoder is scales.decoder else self.rows(scales.encoder))

    def rows(self, by_sample: Tensor) -> Tensor:
        """Return the rows of these samples: 0 if they are not used."""
        own = by_sample[self.first : self.first + self.size]
        return own if self.is_used else torch.zeros_like(own)


class Ranks:
    """A single process, which computes everything by itself."""

    num_data_ranks = num_sample_ranks = 1
    """Numbers of ranks among which the observations, and the samples of an observation, are divided."""
    data_rank = sample_rank = 0
    """This rank's index among them."""

    def seed(self, seed: int | Tensor | None, device: torch.device) -> Tensor:
        """Return the seed that all ranks use, an int64 scalar."""
        return seed_tensor(seed, device)

    def first_observation(self, given: int | None, observations: int, device: torch.device) -> int:  # noqa: ARG002
        """Return the index of this rank's first observation in the batch, if it is not given."""
        return given or 0

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        """Overwrite the tensors of all ranks by those of the first."""

    def backends(self, device: torch.device) -> set[str]:  # noqa: ARG002
        """Return the names of torch's backends that exchange tensors on a device, such as "nccl"."""
        return set()

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradients by their average over all ranks."""

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

    def gather_observations(self, own: Tensor, counts: Sequence[int]) -> list[Tensor]:  # noqa: ARG002
        """Return the columns of every data rank, (n, counts[rank]), from this rank's."""
        return [own]

    def from_first_sample_rank(self, tensor: Tensor) -> Tensor:
        """Return the tensor of the first of the ranks that divide the samples of the same observations."""
        return tensor

    def largest(self, number: int, device: torch.device) -> int:  # noqa: ARG002
        """Return the largest of the numbers of all ranks. Forces a device synchronization."""
        return number

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
        self.size: int = mesh.size()
        self._all_ranks = mesh.mesh.flatten().tolist()
        if self.data is not None:
            self.num_data_ranks: int = self.data.size()
            self.data_rank: int = self.data.rank()
        if self.samples is not None:
            self.num_sample_ranks: int = self.samples.size()
            self.sample_rank: int = self.samples.rank()

    def __deepcopy__(self, _: object) -> MeshRanks:
        """Return this object itself: a copy of a module, such as one of averaged parameters, has the same processes."""
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError(
            "a module on a mesh cannot be pickled, since its process groups exist in this process only: save its "
            "state_dict(), and bind a model again where it is loaded"
        )

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
        if given is not None or self.data is None or self.num_data_ranks == 1:
            return given or 0
        own = torch.tensor([observations], device=device)
        counts = [torch.empty_like(own) for _ in range(self.data.size())]
        dist.all_gather(counts, own, group=self.data)
        return int(sum(counts[: self.data.rank()], start=torch.zeros_like(own)))

    @cached_property
    def _everyone(self) -> ProcessGroup | None:
        """The group of all ranks of the mesh."""
        if self.size == dist.get_world_size():
            return dist.group.WORLD
        return dist.new_group(self._all_ranks, use_local_synchronization=True)

    def copy_from_first(self, tensors: Iterable[Tensor]) -> None:
        for tensor in tensors:
            dist.broadcast(tensor.detach(), group=self._everyone, group_src=0)

    def backends(self, device: torch.device) -> set[str]:
        groups = [group for group in (self.data, self.samples, self._everyone) if group is not None]
        configs = [dict(each.split(":") for each in dist.get_backend_config(group).split(",")) for group in groups]
        return {config.get(device.type, "none") for config in configs}

    def average_gradients(self, parameters: Iterable[Tensor]) -> None:
        """Replace the gradients by their average over all ranks, by one all-reduce of all of them.

        Every rank must have gradients of the same parameters.
        """
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        if not gradients:
            return
        flat = torch.cat([gradient.flatten() for gradient in gradients])
        dist.all_reduce(flat, group=self._everyone)
        flat /= self.size
        for gradient, average in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(average.view(gradient.shape))

    def share(self, num_samples: int) -> Share:
        first, end = part(num_samples, self.sample_rank, self.num_sample_ranks)
        return Share(first, end - first) if end > first else Share(min(first, num_samples - 1), 1, is_used=False)

    def gather(self, own: Tensor, num_samples: int) -> Tensor:
        if self.samples is None or self.num_sample_ranks == 1:
            return own
        ranks = self.num_sample_ranks
        counts = [end - first for first, end in (part(num_samples, rank, ranks) for rank in range(ranks))]
        return torch.cat(_gathered(own, counts, self.samples))

    def gather_observations(self, own: Tensor, counts: Sequence[int]) -> list[Tensor]:
        if self.data is None:
            return [own]
        return [columns.T for columns in _gathered(own.T, counts, self.data)]

    def from_first_sample_rank(self, tensor: Tensor) -> Tensor:
        if self.samples is not None:
            tensor = tensor.contiguous()
            dist.broadcast(tensor, group=self.samples, group_src=0)
        return tensor

    def largest(self, number: int, device: torch.device) -> int:
        found = torch.tensor(number, device=device)
        for group in (self.samples, self.data):
            if group is not None:
                dist.all_reduce(found, dist.ReduceOp.MAX, group=group)
        return int(found)

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
        # Filled on the device: a copy of a number from the host would synchronize, which a CUDA graph cannot capture.
        both = torch.cat([own.double().flatten(), own.new_full((1,), observations, dtype=torch.float64)])
        if self.data is not None:
            dist.all_reduce(both, group=self.data)
        return both[:-1].view(own.shape), both[-1]


def _gathered(own: Tensor, counts: Sequence[int], group: ProcessGroup) -> list[Tensor]:
    """Return the rows of every rank, of which there are ``counts[rank]``, without a graph."""
    padded = own.new_zeros(max(counts), *own.shape[1:])  # a collective needs tensors of one shape
    used = min(len(own), counts[group.rank()])
    padded[:used] = own.detach()[:used]
    rows = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(rows, padded, group=group)
    return [each[:count] for each, count in zip(rows, counts, strict=True)]


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
