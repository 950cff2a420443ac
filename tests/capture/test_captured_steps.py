"""Tests of models side by side, with tapes in place of CUDA graphs: each takes the steps that it takes alone."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from host_recorder import TapeRecorder
from torch import Tensor, nn

import iwae_fast as iw
from iwae_fast.bounds import ELBO, IWAE

VARIANTS: list[dict[str, Any]] = [
    {"k": 1, "seed": 3, "lr": 1e-2},
    {"k": 4, "seed": 3, "lr": 1e-2, "estimator": "dreg"},
    {"k": 4, "seed": 8, "lr": 1e-3, "hidden": (7, 5)},
    {"k": 2, "seed": 8, "lr": 1e-2, "bound": ELBO()},
]
"""Differing models and settings."""


def step_of(variant: dict[str, Any], recorder: TapeRecorder | None = None) -> iw.CapturedStep:
    torch.manual_seed(1)
    model = iw.models.DenseVAE(10, (3,), variant.get("hidden", (6,)))
    objective = iw.Objective(variant.get("bound", IWAE()), variant.get("estimator", "reparameterized"), variant["k"])
    optimizer = iw.optim.Adam(model.parameters(), lr=variant["lr"])
    return iw.CapturedStep(objective, model, optimizer, seed=variant["seed"], recorder=recorder or TapeRecorder())


def batches(*sizes: int) -> list[Tensor]:
    torch.manual_seed(2)
    return [torch.rand(size, 10).round() for size in sizes]


def assert_same(one: iw.CapturedStep, other: iw.CapturedStep) -> None:
    for name in ("model", "optimizer"):
        states = (getattr(step, name).state_dict() for step in (one, other))
        torch.testing.assert_close(*states, rtol=0, atol=0)
    assert one.state_dict() == other.state_dict()


def test_every_model_takes_the_steps_that_it_takes_alone() -> None:
    steps, alone = iw.CapturedSteps(map(step_of, VARIANTS)), [step_of(variant) for variant in VARIANTS]
    for x in batches(5, 5, 5, 3, 5, 3, 3, 5):
        losses = steps(x)
        assert torch.equal(losses, torch.stack([step(x) for step in alone]))
        assert not losses.requires_grad
    assert steps.reasons == (None,) * len(VARIANTS)
    for one, other in zip(steps.steps, alone, strict=True):
        assert_same(one, other)
        assert torch.equal(one.objective.last.value, other.objective.last.value)
    assert [step._recorder.replayed for step in steps.steps] == [4] * len(steps)


def test_models_may_have_batches_of_their_own() -> None:
    steps, alone = iw.CapturedSteps(map(step_of, VARIANTS)), [step_of(variant) for variant in VARIANTS]
    masks = [torch.rand(4, 10) < 0.7, None, torch.rand(6, 10) < 0.7, None]
    for _ in range(4):
        xs = [torch.rand(size, 10).round() for size in (4, 5, 6, 4)]
        losses = steps(xs, mask=masks)
        expected = [step(x, mask=mask) for step, x, mask in zip(alone, xs, masks, strict=True)]
        assert torch.equal(losses, torch.stack(expected))
    for one, other in zip(steps.steps, alone, strict=True):
        assert_same(one, other)


def test_context_is_shared_or_one_per_model() -> None:
    class Conditional(nn.Module):
        def __init__(self, inputs: int, outputs: int) -> None:
            super().__init__()
            self.layer = nn.Linear(inputs + 2, outputs)

        def forward(self, value: Tensor, context: Tensor) -> Any:
            output = self.layer(torch.cat([value, context], -1))
            return tuple(output.chunk(2, -1)) if output.shape[-1] == 6 else output

    def made() -> list[iw.CapturedStep]:
        torch.manual_seed(1)
        models = [iw.models.VAE(Conditional(10, 6), Conditional(3, 10)) for _ in range(2)]
        return [
            iw.CapturedStep(
                iw.Objective(IWAE(), num_samples=2), m, iw.optim.Adam(m.parameters()), seed=1, recorder=TapeRecorder()
            )
            for m in models
        ]

    steps, alone, (x,) = iw.CapturedSteps(made()), made(), batches(5)
    contexts = [torch.randn(5, 2), torch.randn(5, 2)]
    shared, own = steps(x, context=contexts[:1]), steps([x, x], context=[(context,) for context in contexts])
    assert torch.equal(shared, torch.stack([step(x, context=contexts[:1]) for step in alone]))
    assert torch.equal(own, torch.stack([step(x, context=(c,)) for step, c in zip(alone, contexts, strict=True)]))


def test_a_saved_state_goes_on() -> None:
    first, second = iw.CapturedSteps(map(step_of, VARIANTS)), iw.CapturedSteps(map(step_of, VARIANTS))
    data = batches(*[5] * 7)
    for x in data[:4]:
        first(x)
    for one, other in zip(first.steps, second.steps, strict=True):
        other.model.load_state_dict(one.model.state_dict())
        other.optimizer.load_state_dict(deepcopy(one.optimizer.state_dict()))
    second.load_state_dict(first.state_dict())
    for x in data[4:]:
        assert torch.equal(second(x), first(x))


@pytest.mark.filterwarnings("ignore:training steps are run one by one:UserWarning")
def test_steps_without_a_graph_are_taken_in_turn() -> None:
    class Failing(TapeRecorder):
        def record(self, function: Any) -> Any:
            raise RuntimeError(f"no graph\nof {function}")

    steps = iw.CapturedSteps([step_of(VARIANTS[0], Failing()), step_of(VARIANTS[1])])
    alone = [step_of(variant) for variant in VARIANTS[:2]]
    for x in batches(*[5] * 5):
        assert torch.equal(steps(x), torch.stack([step(x) for step in alone]))
    assert steps.reasons == ("RuntimeError: no graph", None)


def sharing(part: str) -> list[iw.CapturedStep]:
    one, other = (step_of(variant) for variant in VARIANTS[:2])
    if part == "decoder":
        other.model.decoder = one.model.decoder
    elif part == "step":
        other = one
    else:
        setattr(other, part, getattr(one, part))
    return [one, other]


@pytest.mark.parametrize(
    ("steps", "error", "message"),
    [
        (list, ValueError, "steps must be at least one CapturedStep, got none"),
        (lambda: [nn.Linear(2, 2)], TypeError, "must be iwae_fast.CapturedStep, got Linear at index 0"),
        (lambda: sharing("step"), ValueError, "steps 0 and 1 must not share anything, got a common CapturedStep"),
        (lambda: sharing("objective"), ValueError, "got a common Objective"),
        (lambda: sharing("optimizer"), ValueError, "got a common Adam"),
        (lambda: sharing("decoder"), ValueError, "got a common parameter or buffer"),
    ],
)
def test_steps_that_are_refused(steps: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        iw.CapturedSteps(steps())


def test_devices_and_meshes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (step_of(variant) for variant in VARIANTS[:2])
    other.device = torch.device("meta")
    with pytest.raises(ValueError, match="steps must be on one device, got cpu and meta"):
        iw.CapturedSteps([one, other])
    monkeypatch.setattr(iw.CapturedStep, "meshed", True)
    with pytest.raises(ValueError, match="got one with a mesh at index 0"):
        iw.CapturedSteps([one])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"x": [torch.zeros(4, 10)]}, ValueError, "x must have one entry for each of 2 models, got 1"),
        ({"x": [torch.zeros(4, 10)] * 2, "mask": torch.ones(4, 10)}, ValueError, "mask must have .* got a tensor"),
        ({"x": torch.zeros(4, 10), "mask": [None, None]}, TypeError, "mask must be a tensor if x is one batch"),
        ({"x": [torch.zeros(4, 10), torch.zeros(4, 9)]}, ValueError, "x must have 10 features per observation"),
    ],
)
def test_bad_batches(arguments: dict[str, Any], error: type[Exception], message: str) -> None:
    steps = iw.CapturedSteps(map(step_of, VARIANTS[:2]))
    with pytest.raises(error, match=message):
        steps(**arguments)


@pytest.mark.parametrize("state", [None, {}, {"steps": []}])
def test_states_that_are_refused(state: Any) -> None:
    with pytest.raises((TypeError, ValueError), match="state_dict must"):
        iw.CapturedSteps(map(step_of, VARIANTS[:2])).load_state_dict(state)
