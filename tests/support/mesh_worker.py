"""The code of each process in the tests of device meshes, in a module that a spawned process can import."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import forkserver
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from host_recorder import TapeRecorder
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

import iwae_fast as iw
from iwae_fast.bounds import CIWAE, CUBO, ELBO, IWAE, JVI, MIWAE, PIWAE, SUMO, TVO, VRIWAE

SIZE, BATCH, SEED = 16, 5, 3

OBJECTIVES = {
    "IWAE": iw.Objective(IWAE(), num_samples=7),
    "IWAE in chunks": iw.Objective(IWAE(), "stl", num_samples=7, chunk_size=2),
    "DReG": iw.Objective(IWAE(), "dreg", num_samples=7, kl_weight=0.5),
    "DReG, budget": iw.Objective(IWAE(), "dreg", num_samples=7, budget=3),
    "RWS, budget of 1": iw.Objective(IWAE(), "rws", num_samples=7, budget=1),
    "VIMCO, tolerance": iw.Objective(IWAE(), "vimco", num_samples=7, tolerance=1e-2),
    "ELBO, fewer samples than ranks": iw.Objective(ELBO(), num_samples=1),
    "ELBO, free bits": iw.Objective(ELBO(), num_samples=3, free_bits=0.05, kl_weight=0.7),
    "VR-IWAE": iw.Objective(VRIWAE(0.3), "dreg", num_samples=7, reduction="sum", dataset_size=100),
    "CUBO": iw.Objective(CUBO(), num_samples=6),
    "SUMO": iw.Objective(SUMO(), num_samples=12),
    "JVI": iw.Objective(JVI(1), "stl", num_samples=7, budget=4),
    "MIWAE": iw.Objective(MIWAE(2), num_samples=8, reduction="sum"),
    "PIWAE": iw.Objective(PIWAE(2), "dreg", num_samples=8),
    "CIWAE": iw.Objective(CIWAE(0.4), num_samples=7),
    "TVO": iw.Objective(TVO(), num_samples=7),
}
SHAPES = {2: [(2, 1), (1, 2)], 3: [(3, 1), (1, 3)], 4: [(2, 2), (4, 1), (1, 4)]}
"""The shapes of meshes, (data, sample), by the number of processes."""

SHARDS = {1: (5,), 2: (3, 2), 3: (4, 0, 1), 4: (2, 1, 1, 1)}
"""Numbers of observations on the data ranks."""

SHARDED_IN_PARTS = ("IWAE", "IWAE in chunks", "DReG, budget", "JVI")
"""The objectives whose encoder and decoder are sharded on their own."""

RATE = 0.5
"""The learning rate of steps that are compared."""

EVALUATIONS = ((40, 50), (5, 1), (300, 30))
"""Numbers of observations and of samples."""


class Result(NamedTuple):
    """The loss of a rank, and the gradients after a wrapper has averaged them, or the parameters after a step."""

    loss: float
    tensors: list[Tensor]


def on_ranks(world: int, name: str, folder: Path) -> list[dict[tuple[int, int], Any]]:
    """Run a function of this module on so many processes; return the results of each rank by the mesh's shape."""
    folder.mkdir(exist_ok=True)
    forkserver.context()
    mp.start_processes(run, (world, str(folder), name), nprocs=world, start_method="forkserver")
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(world)]


def build(layers: int = 1) -> iw.models.DenseVAE:
    torch.manual_seed(0)
    return iw.models.DenseVAE(SIZE, (4, 2)[:layers], ((8,), (4,))[:layers]).double()


def observations(count: int = BATCH) -> Tensor:
    return (torch.rand(count, SIZE, generator=torch.Generator().manual_seed(1), dtype=torch.float64) < 0.5).double()


def shard(mesh: DeviceMesh, x: Tensor) -> Tensor:
    """Return the observations of this data rank."""
    counts = SHARDS[mesh["data"].size()]
    return x.split(counts)[mesh.get_local_rank("data")]


def trained(objective: iw.Objective, mesh: DeviceMesh, x: Tensor, **options: Any) -> Result:
    """Run one step's gradients of a module on a mesh, wrapped in DistributedDataParallel."""
    wrapped = DistributedDataParallel(objective.bind(build(), mesh=mesh))
    loss = wrapped(shard(mesh, x), seed=SEED, **options)
    loss.backward()
    return Result(loss.item(), [p.grad for p in wrapped.parameters()])


def run(rank: int, world: int, folder: str, name: str) -> None:
    """Run the function ``name`` of this module on every mesh of so many processes; each rank saves its results."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    results = {}
    for shape in SHAPES[world]:
        mesh = init_device_mesh("cpu", shape, mesh_dim_names=("data", "sample"))
        results[shape] = globals()[name](mesh, folder)
    torch.save(results, f"{folder}/{rank}.pt")
    dist.barrier()
    dist.destroy_process_group()


def gradients(mesh: DeviceMesh, _: str) -> dict[str, Result]:
    return {name: trained(objective, mesh, observations()) for name, objective in OBJECTIVES.items()}


def sharded_updates(mesh: DeviceMesh, _: str) -> dict[str, Result]:
    """Return the loss of one step, and the parameters after it, of modules whose parameters FSDP2 shards.

    The module is one unit that is gathered as a whole, or encoder and decoder are units of their own.
    """
    results = {}
    for name, objective in OBJECTIVES.items():
        module = objective.bind(build(), mesh=mesh)
        if name in SHARDED_IN_PARTS:
            fully_shard(module.model.encoder)
            fully_shard(module.model.decoder)
        fully_shard(module)
        optimizer = torch.optim.SGD(module.parameters(), lr=RATE)
        loss = module(shard(mesh, observations()), seed=SEED)
        loss.backward()
        optimizer.step()
        results[name] = Result(loss.item(), [p.full_tensor() for p in module.parameters()])
    return results


def with_special_weights(value: float) -> tuple[iw.models.DenseVAE, Tensor]:
    """Return a model and observations, the second of which has only weights of zero, or is not a number."""
    model, x = build(), torch.ones(BATCH, SIZE, dtype=torch.float64)
    model._met_observations = True  # the check of the support would refuse a NaN
    with torch.no_grad():
        model.decoder.output.bias.fill_(1.7e308)  # the sum of two such terms of log p overflows
    x[1] = value
    return model, x


def special_weights(mesh: DeviceMesh, _: str) -> dict[float, Tensor]:
    """Return the loss of each observation of this rank."""
    results = {}
    for value in (0.0, math.nan):
        model, x = with_special_weights(value)
        module = iw.Objective(IWAE(), num_samples=5, reduction="none").bind(model, mesh=mesh)
        results[value] = module(shard(mesh, x), seed=SEED).detach()
    return results


def without_seed(mesh: DeviceMesh, _: str) -> Result:
    """Return a step without a seed: that of the first rank is used."""
    wrapped = DistributedDataParallel(OBJECTIVES["SUMO"].bind(build(), mesh=mesh))
    torch.manual_seed(dist.get_rank())
    loss = wrapped(shard(mesh, observations()))
    loss.backward()
    return Result(loss.item(), [p.grad for p in wrapped.parameters()])


@contextmanager
def counted(calls: list[tuple[str, int]]) -> Iterator[None]:
    """Record the name and the bytes of every collective that this rank starts."""
    originals = {name: getattr(dist, name) for name in ("all_gather", "all_reduce", "broadcast")}

    def recording(name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            tensor = arguments[1] if name == "all_gather" else arguments[0]
            calls.append((name, tensor.numel() * tensor.element_size()))
            return original(*arguments, **options)

        return call

    for name, original in originals.items():
        setattr(dist, name, recording(name, original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(dist, name, original)


def communication(mesh: DeviceMesh, _: str) -> list[tuple[str, int]]:
    """Return the collectives of one forward and backward pass without a wrapper."""
    module = OBJECTIVES["DReG"].bind(build(), mesh=mesh)
    calls: list[tuple[str, int]] = []
    with counted(calls):
        module(shard(mesh, observations()), seed=SEED, observation_offset=0).backward()
    return calls


CAPTURED = ("IWAE", "IWAE in chunks", "DReG, budget", "VR-IWAE", "JVI", "ELBO, free bits", "CIWAE")
STEPS = (5, 5, 5, 5, 4, 5, 4)
"""Numbers of observations of the batches: those of 5 are replayed from the third on, and those of 4 are rehearsed."""


class Steps(NamedTuple):
    """Losses, the parameters after all steps, the gradients of the last one, and what the recorder has counted."""

    losses: list[float]
    parameters: list[Tensor]
    gradients: list[Tensor]
    counts: tuple[int, int, int]
    calls: list[tuple[str, int]]
    """The collectives of one step."""


def sgd(model: iw.models.DenseVAE) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr=2.0**-10, momentum=0.5, fused=True)


def batches() -> list[Tensor]:
    return [observations(count).roll(index, 1) for index, count in enumerate(STEPS)]


def captured_steps(mesh: DeviceMesh, _: str) -> dict[str, Steps]:
    """Train by steps recorded on a tape. All ranks but the first begin with other parameters and another seed."""
    results = {}
    data_ranks, data_rank = mesh["data"].size(), mesh.get_local_rank("data")
    for index, name in enumerate(CAPTURED):
        model, recorder = build(), TapeRecorder()
        with torch.no_grad():
            model.decoder.output.bias += dist.get_rank()
        seed = SEED + dist.get_rank()
        step = iw.CapturedStep(OBJECTIVES[name], model, sgd(model), seed=seed, mesh=mesh, recorder=recorder)
        losses, calls = [], []
        for x in batches():
            own = x.tensor_split(data_ranks)
            offset = sum(map(len, own[:data_rank])) if index % 2 else None
            calls.clear()
            with counted(calls):
                losses.append(step(own[data_rank], observation_offset=offset).item())
        assert step.reason is None, step.reason
        counts = recorder.rehearsed, recorder.recorded, recorder.replayed
        parameters = [p.detach() for p in model.parameters()]
        results[name] = Steps(losses, parameters, [p.grad for p in model.parameters()], counts, calls)
    return results


def evaluations(mesh: DeviceMesh, folder: str) -> list[Tensor]:
    """Return the results of evaluations: with a journal, again from it, and by a function that draws log-weights."""
    results = []
    for count, num_samples in EVALUATIONS:
        journal = f"{folder}/{mesh.shape}-{count}.npz"
        model = build()
        draw = iw.evaluate.FromDraws(model.log_weights)
        for subject, seed, path in (
            (model, SEED, None),
            (model, SEED, journal),
            (model, None, journal),
            (draw, SEED, None),
        ):
            found = iw.evaluate.log_likelihood(
                subject, observations(count), num_samples, seed=seed, journal=path, mesh=mesh
            )
            results.append(torch.stack([found.value, found.std_error, found.ess, found.pareto_k]))
    return results
