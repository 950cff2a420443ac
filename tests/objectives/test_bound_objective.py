"""Tests of an objective and its model combined in one module, as trainers call it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

import iwae_fast as iw


class Conditional(nn.Linear):
    def forward(self, x: Tensor, y: Tensor) -> Any:
        return super().forward(torch.cat([x, y], -1))


class Encoder(Conditional):
    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        mean, log_std = super().forward(x, y).chunk(2, -1)
        return mean, log_std


def conditional() -> iw.models.VAE:
    torch.manual_seed(1)
    return iw.models.VAE(Encoder(10, 6), Conditional(5, 8))


class Rows(Dataset[dict[str, Tensor]]):
    """A data set of named columns, one of which the model does not use."""

    def __init__(self, rows: int) -> None:
        self.x, self.context = torch.rand(rows, 8), torch.rand(rows, 2)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"x": self.x[index], "context": self.context[index], "file": torch.tensor(index)}


def by_names(
    module: nn.Module, batches: Iterable[Mapping[str, Tensor]], optimizer: torch.optim.Optimizer
) -> list[float]:
    """Train by the protocol of transformers' Trainer: batches by argument name, and a loss by its name."""
    signature = inspect.signature(module.forward).parameters
    assert signature["return_loss"].default is True  # or it would not evaluate without labels
    assert all(parameter.kind is not parameter.VAR_KEYWORD for parameter in signature.values())
    losses = []
    for batch in batches:
        outputs = module(**{name: value for name, value in batch.items() if name in signature})
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs[0]
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def test_a_trainer_that_knows_names_alone_makes_the_same_updates() -> None:
    objective = iw.Objective(iw.bounds.IWAE(), "dreg", num_samples=4)
    ours, theirs = conditional(), conditional()
    rows = Rows(32)
    bound = objective.bind(theirs, as_dict=True)
    assert {name.removeprefix("model.") for name in bound.state_dict()} == set(theirs.state_dict())
    torch.manual_seed(2)
    optimizer = torch.optim.Adam(bound.parameters(), lr=1e-2)
    found = by_names(bound, DataLoader(rows, batch_size=8), optimizer)
    torch.manual_seed(2)
    optimizer = torch.optim.Adam(ours.parameters(), lr=1e-2)
    expected = []
    for batch in DataLoader(rows, batch_size=8):
        loss = objective(ours, batch["x"], context=(batch["context"],))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        expected.append(loss.item())
    assert found == expected
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert found[-1] < found[0]


def test_arguments_by_name() -> None:
    model, x, y = conditional(), torch.rand(4, 8), torch.rand(4, 2)
    mask = torch.rand(4, 8) < 0.6
    schedule = iw.schedules.LinearWarmup(10)
    objective = iw.Objective(iw.bounds.IWAE(), num_samples=3, kl_weight=schedule)
    expected = objective(model, x, context=(y,), mask=mask, seed=5, observation_offset=7, step=4)
    bound = objective.bind(model, as_dict=True)
    for context in (y, (y,), [y]):
        found = bound(x=x, context=context, mask=mask, seed=5, observation_offset=7, step=4)
        assert found.keys() == {"loss"}
        assert torch.equal(found["loss"], expected)
    found = objective.bind(model)(x, context=(y,), mask=mask, seed=5, observation_offset=7, step=4)
    assert torch.equal(found, expected)
    with pytest.raises(ValueError, match="return_loss must be True"):
        bound(x=x, context=y, return_loss=False)


@pytest.mark.parametrize(
    ("estimator", "options"),
    [("reparameterized", {}), ("dreg", {"budget": 2}), ("vimco", {}), ("stl", {"chunk_size": 2})],
)
def test_parts_of_a_batch_add_up_to_it(estimator: str, options: dict[str, int]) -> None:
    """Split a batch with one seed and offsets: noise and summed gradient are those of the whole batch."""
    model, x = iw.models.DenseVAE(12, (3,), (6,)).double(), torch.rand(10, 12, dtype=torch.float64)
    objective = iw.Objective(iw.bounds.IWAE(), estimator, num_samples=5, **options)
    whole = torch.autograd.grad(objective(model, x, seed=11), list(model.parameters()))
    offset = 0
    for part in x.split(4):
        loss = objective(model, part, seed=11, observation_offset=offset)
        (loss * (len(part) / len(x))).backward()
        offset += len(part)
    torch.testing.assert_close([p.grad for p in model.parameters()], list(whole))


def test_who_needs_a_number_of_samples() -> None:
    """Require num_samples for every bound except the ELBO, for which one sample is enough."""
    for bound in (iw.bounds.IWAE(), iw.bounds.VRIWAE(0.5), iw.bounds.SUMO(), iw.bounds.TVO(), iw.bounds.CUBO()):
        with pytest.raises(TypeError, match=r"num_samples must be given with \w+\(.*, such as Objective\(.*=50\)"):
            iw.Objective(bound)
    assert iw.Objective(iw.bounds.ELBO()).num_samples == 1
    assert iw.Objective(iw.bounds.IWAE(), num_samples=1).num_samples == 1
