"""Tests that an objective, and an evaluation, on a mesh of CPU processes equal those of one process."""

from __future__ import annotations

import copy
import io
import math
import pickle
from pathlib import Path
from types import SimpleNamespace

import mesh_worker
import pytest
import torch
import torch.distributed as dist
from mesh_worker import EVALUATIONS, OBJECTIVES, SEED, SHAPES, Result, build, observations, on_ranks
from torch.distributed.device_mesh import init_device_mesh

import iwae_fast as iw
from iwae_fast.evaluate.likelihood import StreamingWeights

pytestmark = [
    pytest.mark.skipif(not dist.is_available() or not dist.is_gloo_available(), reason="torch has no gloo"),
    pytest.mark.xdist_group("mesh"),
]


@pytest.fixture(scope="module")
def one_process() -> dict[str, Result]:
    results = {}
    for name, objective in OBJECTIVES.items():
        model = build()
        loss = objective(model, observations(), seed=SEED)
        loss.backward()
        results[name] = Result(loss.item(), [p.grad for p in model.parameters()])
    return results


def assert_equal(found: Result, exact: Result) -> None:
    assert found.loss == pytest.approx(exact.loss, rel=1e-12)
    largest = max(float(tensor.abs().max()) for tensor in exact.tensors)
    torch.testing.assert_close(found.tensors, exact.tensors, rtol=1e-12, atol=1e-12 * max(largest, 1.0))


@pytest.mark.parametrize("world", SHAPES)
def test_a_mesh_is_one_process(world: int, one_process: dict[str, Result], tmp_path: Path) -> None:
    """Check value and gradient on every rank: uneven shards, an empty one, and samples that do not divide."""
    for by_shape in on_ranks(world, "gradients", tmp_path):
        for shape, results in by_shape.items():
            for name, found in results.items():
                try:
                    assert_equal(found, one_process[name])
                except AssertionError as error:
                    raise AssertionError(f"{name} on a mesh of {shape}: {error}") from error


def test_sharded_parameters(tmp_path: Path) -> None:
    """Check the parameters after a step of FSDP2 (``fully_shard``), gathered from the ranks."""
    exact = {}
    for name, objective in OBJECTIVES.items():
        model = build()
        optimizer = torch.optim.SGD(model.parameters(), lr=mesh_worker.RATE)
        loss = objective(model, observations(), seed=SEED)
        loss.backward()
        optimizer.step()
        exact[name] = Result(loss.item(), [p.detach() for p in model.parameters()])
    for by_shape in on_ranks(2, "sharded_updates", tmp_path):
        for results in by_shape.values():
            for name, found in results.items():
                assert_equal(found, exact[name])


def test_special_weights(tmp_path: Path) -> None:
    """Check an observation whose weights are all zero, and one that is not a number, on one of the ranks."""
    exact = {}
    for value in (0.0, math.nan):
        model, x = mesh_worker.with_special_weights(value)
        loss = iw.Objective(iw.bounds.IWAE(), num_samples=5, reduction="none")(model, x, seed=SEED)
        assert not loss[1].isfinite()
        assert loss[2:].isfinite().all()
        exact[value] = loss.detach()
    for rank, by_shape in enumerate(on_ranks(4, "special_weights", tmp_path)):
        for (data, sample), results in by_shape.items():
            for found, whole in zip(results.values(), exact.values(), strict=True):
                own = whole.split(mesh_worker.SHARDS[data])[rank // sample]
                torch.testing.assert_close(found, own, rtol=1e-12, atol=1e-12, equal_nan=True)


def test_the_seed_of_the_first_rank_is_used(tmp_path: Path) -> None:
    by_rank = on_ranks(4, "without_seed", tmp_path)
    for shape in SHAPES[4]:
        results = [results[shape] for results in by_rank]
        for other in results[1:]:
            assert_equal(other, results[0])


def test_communication_of_a_step(tmp_path: Path) -> None:
    """Check that a step exchanges its log-weights once, and two numbers for the value of the loss; no gradients."""
    for by_shape in on_ranks(4, "communication", tmp_path):
        for (_, sample), calls in by_shape.items():
            rows = math.ceil(OBJECTIVES["DReG"].num_samples / sample)
            gathers = [size for name, size in calls if name == "all_gather"]
            assert len(gathers) == (sample > 1)
            assert all(size % (rows * 8) == 0 and size <= rows * 8 * mesh_worker.BATCH for size in gathers)
            assert [call for call in calls if call[0] != "all_gather"] == [("all_reduce", 16)]


@pytest.mark.parametrize("world", SHAPES)
def test_an_evaluation_on_a_mesh(world: int, tmp_path: Path) -> None:
    """Check the results of every rank: with a journal, resumed from it without a seed, and of a function."""
    exact = []
    for count, num_samples in EVALUATIONS:
        found = iw.evaluate.log_likelihood(build(), observations(count), num_samples, seed=SEED)
        exact += [torch.stack([found.value, found.std_error, found.ess, found.pareto_k])] * 4
    for by_shape in on_ranks(world, "evaluations", tmp_path):
        for results in by_shape.values():
            torch.testing.assert_close(results, exact, rtol=1e-10, atol=1e-10, equal_nan=True)
            for first in range(0, len(results), 4):  # a resumed evaluation gives the same bits
                assert torch.equal(results[first + 1].nan_to_num(), results[first + 2].nan_to_num())


def test_samples_that_are_merged_have_the_tail_of_one_stream() -> None:
    """Check that the sum of two halves has the same largest log-weights, bitwise, as the whole."""
    log_weights = torch.randn(400, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 5
    whole, *halves = (StreamingWeights(400, 3, torch.device("cpu")) for _ in range(3))
    whole.add(log_weights)
    for half, part in zip(halves, (log_weights[:150], log_weights[150:]), strict=True):
        half.add(part)
    sent: list[torch.Tensor] = []  # the first half is asked for its sums, the second one gets them
    halves[0].merge_ranks(SimpleNamespace(num_sample_ranks=2, gather=lambda own, _: sent.append(own) or own))
    halves[1].merge_ranks(SimpleNamespace(num_sample_ranks=2, gather=lambda own, _: torch.cat([sent[0], own])))
    assert torch.equal(halves[1].tail, whole.tail)
    for found, exact in zip(
        (halves[1].log_likelihood().value, halves[1].log_likelihood().std_error),
        (whole.log_likelihood().value, whole.log_likelihood().std_error),
        strict=True,
    ):
        torch.testing.assert_close(found, exact, rtol=1e-12, atol=1e-12)


def test_other_meshes_are_refused() -> None:
    objective, model = OBJECTIVES["IWAE"], build()
    with pytest.raises(TypeError, match="mesh must be a torch.distributed DeviceMesh, got str"):
        objective.bind(model, mesh="data")  # type: ignore[call-overload]
    for names in (None, ("dp", "sample")):
        mesh = SimpleNamespace(mesh_dim_names=names, get_group=lambda name: name)
        with pytest.raises(ValueError, match="mesh must have the dimensions 'data' and 'sample'"):
            objective.bind(model, mesh=mesh)  # type: ignore[call-overload]


def test_copies_of_a_module_on_a_mesh() -> None:
    """Check that a deep copy trains on its own, and that pickling names what to save instead."""
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1, 1), mesh_dim_names=("data", "sample"))
        module = OBJECTIVES["DReG"].bind(build(), mesh=mesh)
        copied = copy.deepcopy(module)
        losses = [each(observations(), seed=SEED) for each in (module, copied)]
        assert torch.equal(*losses)
        losses[1].backward()
        assert all(p.grad is None for p in module.parameters())
        assert all(p.grad is not None for p in copied.parameters())
        for save in (pickle.dumps, lambda each: torch.save(each, io.BytesIO())):
            with pytest.raises(TypeError, match=r"a module on a mesh cannot be pickled.* save its state_dict\(\)"):
                save(module)
    finally:
        dist.destroy_process_group()
