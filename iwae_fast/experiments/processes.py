"""The processes that torchrun has started for one command, and what they do together.

All of them hold the same model and take the same decisions. The first one alone writes files and prints, so a run does
not depend on their number.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from datetime import timedelta
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor

from .. import checks
from ..objectives.ranks import ONE_PROCESS, MeshRanks, Ranks
from .launched import number, number_of_processes

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.distributed_c10d import Store

T = TypeVar("T")

TIMEOUT = timedelta(minutes=30)
"""The longest wait for another process: longer than a download, a checkpoint or a report of the first one takes."""

PARENT_DEATH_SIGNAL = 1
"""PR_SET_PDEATHSIG of Linux's prctl."""

FAILURE_TIMEOUT = timedelta(seconds=20)
"""The longest wait for the others when this process fails."""


class Processes:
    """A single process, which does everything by itself."""

    rank = 0
    size = 1
    mesh: DeviceMesh | None = None
    ranks: Ranks = ONE_PROCESS

    @property
    def is_first(self) -> bool:
        """True for the process that writes files and prints."""
        return self.rank == 0

    def use(self, device: str) -> None:
        """Make "cuda" mean the GPU of this process; raises ValueError for a device that processes cannot share."""

    def from_first(self, function: Callable[[], T]) -> T:
        """Call a function on the first process; return its result, or raise its exception, on all of them."""
        return function()

    def leaders_first(self, function: Callable[[], T]) -> T:
        """Call a function on all processes: on the first one of each machine before the others, so that what it leaves
        on the disk, such as a download, is made once."""
        return function()

    def sum(self, tensor: Tensor) -> None:
        """Replace a tensor by its sum over all processes."""

    def largest(self, own: int) -> int:
        """Return the largest of the numbers of all processes."""
        return own

    def wait(self) -> None:
        """Wait until all processes are here."""

    @contextmanager
    def holding(self, context: AbstractContextManager[Any]) -> Iterator[None]:
        """Enter a context, such as a lock, on the first process; its exceptions are raised on all of them."""
        with ExitStack() as stack:

            def enter() -> None:
                stack.enter_context(context)

            self.from_first(enter)
            yield


ALONE = Processes()


class Group(Processes):
    """The processes of a process group, ``sample_ranks`` of which divide the samples of the same observations."""

    def __init__(self, sample_ranks: int) -> None:
        from torch.distributed.device_mesh import init_device_mesh

        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        # The groups of a mesh serve every device that the process group serves.
        shape = (self.size // sample_ranks, sample_ranks)
        self.mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "sample"))
        self.ranks = MeshRanks(self.mesh)

    def use(self, device: str) -> None:
        kind, _, index = device.partition(":")
        if kind != "cuda":
            return
        if index:
            raise ValueError(
                f"device must be cpu or cuda with several processes, each of which takes its own GPU, got {device!r}"
            )
        local, gpus = number("LOCAL_RANK"), torch.cuda.device_count()
        if local < gpus:  # without a GPU, the check of the device reports it
            torch.cuda.set_device(local)
        elif gpus:
            raise ValueError(f"--nproc-per-node must be at most {gpus}, the number of GPUs, got {local + 1} or more")

    def from_first(self, function: Callable[[], T]) -> T:
        sent: list[Any] = list(_outcome(function)) if self.is_first else [None, None]
        dist.broadcast_object_list(sent, src=0)
        result, error = sent
        if error is not None:
            raise error
        return result

    def leaders_first(self, function: Callable[[], T]) -> T:
        leads = number("LOCAL_RANK") == 0
        result, error = _outcome(function) if leads else (None, None)
        errors: list[Any] = [None] * self.size
        dist.all_gather_object(errors, error)
        for raised in errors:
            if raised is not None:
                raise raised
        return cast(T, result) if leads else function()

    def sum(self, tensor: Tensor) -> None:
        dist.all_reduce(tensor)

    def largest(self, own: int) -> int:
        found = torch.tensor(own)
        dist.all_reduce(found, dist.ReduceOp.MAX)
        return int(found)

    def wait(self) -> None:
        self.largest(0)


@contextmanager
def started(sample_ranks: int = 1) -> Iterator[Processes]:
    """Join the processes of this command, ``sample_ranks`` of which divide the samples of the same observations.

    Raises ValueError if the number of processes is not a multiple of ``sample_ranks``.
    """
    checks.positive("sample-ranks", sample_ranks)
    size = number_of_processes()
    if size % sample_ranks:
        how = "" if size > 1 else ": start several with torchrun --nproc-per-node N -m iwae_fast"
        raise ValueError(f"sample-ranks must divide the number of processes, {size}, got {sample_ranks}{how}")
    if size == 1:
        yield ALONE
        return
    from torch.distributed.distributed_c10d import PrefixStore

    _end_with_parent()
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    rank = number("RANK")
    dist.init_process_group(backend, store=PrefixStore("group", _store()), rank=rank, world_size=size, timeout=TIMEOUT)
    yield Group(sample_ranks)
    # Only after success: a process that fails must not wait here for others, which fail because it does.
    dist.destroy_process_group()


def fails_first() -> bool:
    """Return whether this process is the first of the processes to call this, because it fails.

    The failure of the others is a consequence, and is not shown.
    """
    if number_of_processes() == 1:
        return True
    try:
        return _store(FAILURE_TIMEOUT).add("failures", 1) == 1
    except dist.DistError:  # the store ended with the first process, if a launcher other than torchrun started that
        return False


def is_loss_of_another(error: BaseException) -> bool:
    """Return whether an error of a collective says that another process has ended."""
    return isinstance(error, dist.DistError) or (
        isinstance(error, RuntimeError) and any(text in str(error) for text in ("gloo", "NCCL", "onnection"))
    )


@cache
def _store(timeout: timedelta = TIMEOUT) -> Store:
    """Return the store that all processes share, which outlives each of them under torchrun."""
    from torch.distributed.distributed_c10d import PrefixStore

    hosted = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    store = dist.TCPStore(  # type: ignore[attr-defined]
        os.environ["MASTER_ADDR"],
        number("MASTER_PORT"),
        number("WORLD_SIZE"),
        is_master=not hosted and number("RANK") == 0,
        timeout=timeout,
        wait_for_workers=False,
        multi_tenant=True,
    )
    # After a restart by torchrun the store still has the entries of the processes before.
    return PrefixStore(f"iwae_fast/{os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}", store)


def _end_with_parent() -> None:
    """Let Linux send SIGTERM to this process when torchrun ends, so that it does not go on alone.

    torchrun ends its processes itself, unless it is killed, or gets a signal that it does not handle.
    """
    if sys.platform == "linux":
        with suppress(OSError, AttributeError):  # another C library
            ctypes.CDLL(None).prctl(PARENT_DEATH_SIGNAL, signal.SIGTERM)


def _outcome(function: Callable[[], T]) -> tuple[T | None, Exception | None]:
    """Call a function; return its result or its exception."""
    try:
        return function(), None
    except Exception as error:
        return None, error
