"""Tests of training steps in one launch, on the emulated GPU, against float64 autograd and eager steps."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import iwae_fast as iw
from iwae_fast.backends import MISSING, NATIVE
from iwae_fast.bounds import ELBO, IWAE, MIWAE, VRIWAE, Bound
from iwae_fast.experiments.optimizers import PublishedAdam
from iwae_fast.experiments.train.pixels import batches_as_pixels
from iwae_fast.fused import items, plan, served
from iwae_fast.fused import step as fused_step
from iwae_fast.optim import Adam, AdamW

pytestmark = pytest.mark.skipif(MISSING["cuda"] is not None, reason=f"no CUDA kernels: {MISSING['cuda']}")

SMALL = (13, 5, (9, 7))
"""Data dimension, latent dimension and hidden dimensions: none is a multiple of 4."""
OBSERVATIONS = 12


@dataclasses.dataclass
class Training:
    """A model with its optimizer and data."""

    sizes: tuple[int, int, tuple[int, ...]] = SMALL
    bound: Bound = dataclasses.field(default_factory=IWAE)
    estimator: str = "reparameterized"
    k: int = 3
    settings: dict[str, Any] = dataclasses.field(default_factory=dict)
    optimizer: Callable[..., Adam] = Adam
    dtype: torch.dtype = torch.float32

    def __post_init__(self) -> None:
        data_dim, latent, hidden = self.sizes
        torch.manual_seed(1)
        self.model = iw.models.DenseVAE(data_dim, (latent,), (hidden,))
        # Away from zero, so that no gradient is smaller than its rounding.
        with torch.no_grad():
            for parameter in self.model.parameters():
                parameter += 0.3 * torch.randn(parameter.shape)
        self.model.to(self.dtype)
        self.adam = self.optimizer(self.model.parameters(), lr=2.0**-8, eps=1e-4)
        self.objective = iw.Objective(self.bound, self.estimator, num_samples=self.k, **self.settings)
        self.data = torch.rand(OBSERVATIONS, data_dim).round().to(self.dtype)

    def exact(self) -> Training:
        """Return the same training in float64."""
        return dataclasses.replace(self, dtype=torch.float64)

    def fused(self, **options: Any) -> iw.FusedStep:
        return iw.FusedStep(self.objective, self.model, self.adam, options.pop("data", self.data), seed=3, **options)

    def one_by_one(self) -> iw.CapturedStep:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that steps are not captured on a CPU
            return iw.CapturedStep(self.objective, self.model, self.adam, seed=3)

    def take(self, rows: Tensor, rates: Tensor | None = None, x: Tensor | None = None) -> Tensor:
        """Take steps one by one; ``x`` replaces the data of all steps, (S, B, D)."""
        step, losses = self.one_by_one(), []
        for i, row in enumerate(rows):
            if rates is not None:
                self.adam.param_groups[0]["lr"] = float(rates[i])
            losses.append(step(self.data[row] if x is None else x[i].to(self.dtype)))
        return torch.stack(losses)

    def same_as(self, other: Training, tolerance: float = 2e-5) -> None:
        """Raise AssertionError unless parameters and state of Adam are those of another training."""
        for (name, own), theirs in zip(self.model.named_parameters(), other.model.parameters(), strict=True):
            torch.testing.assert_close(own.double(), theirs.double(), rtol=0.0, atol=tolerance, msg=name)
            for entry, value in self.adam.state[own].items():
                expected = other.adam.state[theirs][entry].double()
                torch.testing.assert_close(value.double(), expected, rtol=1e-4, atol=tolerance, msg=f"{name} {entry}")


def rows_of(steps: int, batch: int) -> Tensor:
    return torch.randint(OBSERVATIONS, (steps, batch), generator=torch.Generator().manual_seed(2))


@pytest.fixture(autouse=True)
def own_generator() -> Iterator[None]:
    with torch.random.fork_rng(devices=[]):
        yield


BOUNDS = [
    pytest.param(IWAE(), "reparameterized", {}, id="IWAE"),
    pytest.param(IWAE(), "stl", {}, id="IWAE, STL"),
    pytest.param(IWAE(), "dreg", {"kl_weight": 0.5}, id="IWAE, DReG, weighted divergence"),
    pytest.param(IWAE(), "aisle-chi2", {}, id="AISLE"),
    pytest.param(ELBO(), "reparameterized", {"reduction": "sum", "dataset_size": 30}, id="ELBO of a data set"),
    pytest.param(ELBO(), "stl", {"reduction": "sum"}, id="ELBO, STL, sum"),
    pytest.param(VRIWAE(0.5), "reparameterized", {}, id="VR-IWAE"),
    pytest.param(VRIWAE(0.25), "dreg", {}, id="VR-IWAE, DReG"),
]


@pytest.mark.parametrize(("bound", "estimator", "settings"), BOUNDS)
def test_steps_are_those_of_float64(bound: Bound, estimator: str, settings: dict[str, Any]) -> None:
    training = Training(bound=bound, estimator=estimator, settings=settings)
    rows = rows_of(5, 4)
    losses = training.fused()(rows)
    exact = training.exact()
    torch.testing.assert_close(losses.double(), exact.take(rows), rtol=2e-6, atol=2e-5)
    training.same_as(exact)


SIZES = [
    pytest.param((13, 5, ()), 3, 4, id="without hidden layers"),
    pytest.param((8, 4, (8,)), 1, 4, id="k = 1, one hidden layer, all rows aligned"),
    pytest.param((70, 3, (6, 11, 66)), 2, 3, id="three hidden layers, several tiles of columns"),
    pytest.param((13, 70, (9,)), 2, 2, id="more latents than an item of their gradient takes"),
    pytest.param((5, 1, (3,)), 65, 1, id="one observation, several tiles of rows"),
    pytest.param((5, 2, (3,)), 300, 1, id="gradients in parts"),
    pytest.param((5, 2, (3,)), 1, 40, id="a batch of several tiles"),
]


@pytest.mark.parametrize(("sizes", "k", "batch"), SIZES)
def test_any_sizes(sizes: tuple[int, int, tuple[int, ...]], k: int, batch: int) -> None:
    training = Training(sizes, k=k)
    rows = rows_of(2, batch)
    losses = training.fused()(rows)
    exact = training.exact()
    torch.testing.assert_close(losses.double(), exact.take(rows), rtol=2e-6, atol=2e-5)
    training.same_as(exact)


def test_twenty_steps_and_both_directions_of_resuming() -> None:
    """Take 20 steps in one launch; in two launches; one by one and then in a launch; and the reverse."""
    rows = rows_of(20, 4)
    whole, launched, first, last, eager = (Training(estimator="dreg") for _ in range(5))
    losses = whole.fused()(rows)
    step = launched.fused()
    torch.testing.assert_close(torch.cat([step(rows[:7]), step(rows[7:])]), losses, rtol=0.0, atol=0.0)
    launched.same_as(whole, 0.0)

    torch.testing.assert_close(eager.take(rows), losses, rtol=1e-5, atol=2e-5)
    whole.same_as(eager)

    captured, fused = first.one_by_one(), first.fused()
    for row in rows[:9]:
        captured(first.data[row])
    fused.load_state_dict(captured.state_dict())
    fused(rows[9:])
    first.same_as(whole)

    captured, fused = last.one_by_one(), last.fused()
    fused(rows[:9])
    assert fused.state_dict() == {"seed": int(captured.seed) + 9, "calls": 9}
    captured.load_state_dict(fused.state_dict())
    for row in rows[9:]:
        captured(last.data[row])
    last.same_as(whole)


def test_pixels_are_drawn_as_in_training() -> None:
    training = Training()
    grey_levels, rows = torch.rand(OBSERVATIONS, 13), rows_of(4, 3)
    step = training.fused(data=grey_levels, pixel_seed=11)
    step(rows[:1])
    losses = step(rows[1:])
    exact = training.exact()
    x = batches_as_pixels(grey_levels[rows], torch.tensor(11), torch.arange(4))
    torch.testing.assert_close(losses.double(), exact.take(rows, x=x)[1:], rtol=2e-6, atol=2e-5)
    training.same_as(exact)


def test_bytes_are_divided() -> None:
    images = torch.randint(256, (OBSERVATIONS, 13), dtype=torch.uint8)
    training, other = Training(), Training()
    rows = rows_of(2, 3)
    losses = training.fused(data=images, divisor=255)(rows)
    torch.testing.assert_close(losses, other.fused(data=images.float() / 255)(rows), rtol=0.0, atol=0.0)


def test_learning_rates_and_settings_of_adam() -> None:
    def decaying(*arguments: Any, **settings: Any) -> Adam:
        return AdamW(*arguments, **settings, weight_decay=0.1, betas=(0.8, 0.9), maximize=True)

    def penalized(*arguments: Any, **settings: Any) -> Adam:
        return Adam(*arguments, **settings, weight_decay=0.1)

    rows, rates = rows_of(3, 2), torch.tensor([0.01, 0.001, 0.02])
    for optimizer in (decaying, penalized, PublishedAdam):
        training = Training(optimizer=optimizer)
        training.fused()(rows, rates)
        exact = training.exact()
        exact.take(rows, rates)
        training.same_as(exact)
    by_tensor, by_number = Training(), Training()
    by_tensor.adam.param_groups[0]["lr"] = torch.tensor(0.01)
    by_number.adam.param_groups[0]["lr"] = 0.01
    by_tensor.fused()(rows)
    by_number.fused()(rows)
    by_tensor.same_as(by_number, 0.0)


def test_tf32_is_torchs_setting() -> None:
    rows = rows_of(2, 3)
    training, rounded = Training(), Training()
    losses = training.fused()(rows)
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32"
    try:
        coarse = rounded.fused()(rows)
    finally:
        torch.backends.cuda.matmul.fp32_precision = before
    assert not torch.equal(losses, coarse)
    torch.testing.assert_close(coarse, losses, rtol=2e-3, atol=0.0)
    rounded.same_as(training, 5e-3)


def test_diagnostics_are_those_of_the_objective() -> None:
    training, other = Training(bound=VRIWAE(0.5)), Training(bound=VRIWAE(0.5))
    rows = rows_of(1, 4)
    step = training.fused()
    assert step.metrics is None
    step(rows)
    other.take(rows)
    expected, last = other.objective.last, training.objective.last
    assert step.metrics is not None
    assert expected is not None
    assert last is not None
    for name in ("ess", "max_weight"):
        torch.testing.assert_close(getattr(step.metrics, name)[0], getattr(expected, name), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(getattr(last, name), getattr(expected, name), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(step.metrics.bound[0], expected.value, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(last.value, expected.value, rtol=1e-5, atol=1e-5)
    assert last.num_backward.tolist() == [3] * 4


def test_several_steps_in_a_process_and_several_batch_sizes() -> None:
    rows, few = rows_of(2, 4), rows_of(2, 3)
    one, two = Training(), Training(k=2)
    alone, apart = Training(), Training(k=2)
    first, second = one.fused(), two.fused()
    for batch in (rows, few):
        first(batch)
        second(batch)
    for training in (alone, apart):
        step = training.fused()
        step(rows)
        step(few)
    one.same_as(alone, 0.0)
    two.same_as(apart, 0.0)


def test_loaded_states_are_followed() -> None:
    """Load a state into the optimizer, and move the parameters: both have other memory afterwards."""
    rows = rows_of(2, 3)
    training, expected = Training(), Training()
    step, other = training.fused(), expected.fused()
    step(rows)
    other(rows)
    training.adam.load_state_dict(training.adam.state_dict())
    for parameter in training.model.parameters():
        parameter.data = parameter.data.clone()
    version = training.model.encoder.mean.weight._version
    step(rows)
    other(rows)
    training.same_as(expected, 0.0)
    assert training.model.encoder.mean.weight._version > version


def test_a_row_out_of_range_makes_the_loss_nan() -> None:
    rows = rows_of(1, 3)
    rows[0, 1] = OBSERVATIONS
    assert Training().fused()(rows).isnan().all()


def test_every_barrier_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove each barrier within a step: the emulator must report an access that it would have ordered."""
    whole = plan.plan_step
    count = len(plan.plan_step(plan.Network(13, (9, 7), 5, (7, 9), 2, 2), _layers()).phases)
    for removed in range(count - 1):

        def without(*arguments: Any, removed: int = removed, **options: Any) -> plan.Plan:
            made = whole(*arguments, **options)
            phases = list(made.phases)
            phases[removed : removed + 2] = [phases[removed] + phases[removed + 1]]
            return made._replace(phases=tuple(phases))

        monkeypatch.setattr(fused_step, "plan_step", without)
        with pytest.raises(RuntimeError, match="no barrier|without a barrier"):
            Training(k=2).fused()(rows_of(2, 2))


def test_words_are_those_of_the_kernel() -> None:
    names = NATIVE["cuda"].kernels.training_names  # type: ignore[attr-defined]
    assert [kind.name.title() for kind in items.Kind] == names("kinds")
    assert [shape.name.title() for shape in items.Shape] == names("shapes")
    assert [finish.name.title() for finish in items.Finish] == names("finishes")
    assert list(items.Task._fields) == names("fields")


# --- plans ----------------------------------------------------------------------------------------------------


def _layers(data_dim: int = 13, latent: int = 5, hidden: tuple[int, ...] = (9, 7)) -> list[plan.Layer]:
    model = iw.models.DenseVAE(data_dim, (latent,), (hidden,))
    return [
        plan.Layer(0, 0, layer.in_features, layer.out_features, 2 * i)
        for i, layer in enumerate(served.layers_of(model))
    ]


def test_barriers_of_the_papers_network() -> None:
    made = plan.plan_step(plan.Network(784, (200, 200), 50, (200, 200), 20, 50), _layers(784, 50, (200, 200)))
    assert made.barriers == 14


def test_thousands_of_samples_are_planned() -> None:
    network = plan.Network(784, (200, 200), 50, (200, 200), 100, 5000)
    made = plan.plan_step(network, _layers(784, 50, (200, 200)))
    assert all(max(task) < 2**40 for phase in made.phases for task in phase)
    assert made.floats > 500_000 * (784 + 2 * 50 + 4 * 200)
    with pytest.raises(plan.TooLargeError, match="too many"):
        plan.plan_step(network._replace(samples=50_000_000), _layers(784, 50, (200, 200)))


@given(
    data_dim=st.integers(1, 100),
    latent=st.integers(1, 80),
    hidden=st.lists(st.integers(1, 70), max_size=3),
    batch=st.integers(1, 70),
    samples=st.integers(1, 400),
)
def test_results_of_tasks_lie_in_the_workspace(
    data_dim: int, latent: int, hidden: list[int], batch: int, samples: int
) -> None:
    """Check that results of a phase neither overlap nor leave the workspace, and that all layers are updated once."""
    network = plan.Network(data_dim, tuple(hidden), latent, tuple(hidden[::-1]), batch, samples)
    base = 1 << 40
    made = plan.plan_step(network, _layers(data_dim, latent, tuple(hidden)), base)
    updated = []
    for phase in made.phases:
        taken: set[int] = set()
        for task in phase:
            if task.kind == items.Kind.UPDATE or task.finish == items.Finish.ADAM:
                updated.append(task.layer)
            if task.out == 0 or task.kind not in (items.Kind.FORWARD, items.Kind.BACKWARD, items.Kind.GRADIENT):
                continue
            assert task.out_stride >= task.columns
            first = (task.out - base) // 4
            ends = first + (task.rows - 1) * task.out_stride + task.columns
            assert first >= 0
            assert ends + (task.parts - 1) * task.out_part <= made.floats
            corners = {first, first + task.columns - 1, ends - 1}
            assert not corners & taken
            taken |= corners
    assert sorted(updated) == list(range(0, 2 * len(_layers(data_dim, latent, tuple(hidden))), 2))
    assert items.Kind.PIXELS in {task.kind for task in made.phases[-1]}


# --- refusals -------------------------------------------------------------------------------------------------


def refused(training: Training) -> str:
    with pytest.raises(ValueError, match="cannot run in one launch") as error:
        training.fused()
    return str(error.value)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        pytest.param({"bound": MIWAE(2), "k": 4}, "the bound must be IWAE, ELBO or VRIWAE", id="bound"),
        pytest.param({"bound": VRIWAE(0.9)}, "alpha from 0 to 0.75", id="alpha"),
        pytest.param({"estimator": "vimco"}, "estimator 'vimco' is not supported", id="estimator"),
        pytest.param({"settings": {"budget": 2}}, "budget", id="budget"),
        pytest.param({"settings": {"kl_weight": lambda _: 1.0}}, "kl_weight is a schedule", id="schedule"),
        pytest.param({"settings": {"reduction": "none"}}, "reduction 'none'", id="reduction"),
        pytest.param({"bound": ELBO(), "settings": {"free_bits": 0.1}}, "free_bits", id="free bits"),
        pytest.param({"dtype": torch.float64}, "parameters must be float32", id="dtype"),
    ],
)
def test_refused_objectives(settings: dict[str, Any], reason: str) -> None:
    message = refused(Training(**settings))
    assert reason in message
    assert message.endswith("use iwae_fast.CapturedStep")


def _replaced(training: Training, model: Any) -> Training:
    training.model, training.adam = model, Adam(model.parameters())
    return training


def test_refused_models() -> None:
    def reason(model: Any) -> str:
        return refused(_replaced(Training(), model))

    build = iw.models.DenseVAE
    assert "2 stochastic layers" in reason(build(13, (5, 3), ((9,), (4,))))
    assert "likelihood must be 'bernoulli'" in reason(build(13, (5,), ((9,),), likelihood="gaussian"))
    assert "the prior must be N(0, I)" in reason(build(13, (5,), ((9,),), prior=iw.models.MixturePrior(5, 2)))
    own = build(13, (5,), ((9,),))
    assert "must be a DenseVAE, got VAE" in reason(iw.models.VAE(own.encoder, own.decoder))
    hooked = build(13, (5,), ((9,),))
    hooked.encoder.mean.register_forward_hook(lambda *_: None)
    assert "hooks" in reason(hooked)
    changed = build(13, (5,), ((9,),))
    changed.encoder.hidden[0] = torch.nn.Linear(13, 9)
    assert "encoder.hidden.0 is not the dense network" in reason(changed)
    frozen = build(13, (5,), ((9,),))
    frozen.decoder.output.weight.requires_grad_(False)
    training = _replaced(Training(), frozen)
    assert "does not require a gradient" in refused(training)


def test_refused_optimizers() -> None:
    training = Training()
    parameters = list(training.model.parameters())

    def reason(optimizer: Any) -> str:
        training.adam = optimizer
        return refused(training)

    assert "must be iw.optim.Adam or AdamW, got SGD" in reason(torch.optim.SGD(parameters))
    assert "max_norm" in reason(Adam(parameters, max_norm=1.0))
    assert "one group" in reason(Adam([{"params": parameters[:3]}, {"params": parameters[3:]}]))
    assert "all parameters" in reason(Adam(parameters[:3]))
    hooked = Adam(parameters)
    hooked.register_step_pre_hook(lambda *_: None)
    assert "hooks" in reason(hooked)


def test_refused_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = NATIVE["cuda"]
    monkeypatch.setattr(type(backend), "no_training_steps", lambda *_: "it does not support cooperative launches")
    assert "cooperative launches" in refused(Training())
    monkeypatch.setattr(type(backend), "device", "cuda")
    assert "the model is on cpu, but the kernel requires a CUDA device" in refused(Training())
    monkeypatch.setitem(MISSING, "cuda", "the C++ extension was built without CUDA")
    assert "built without CUDA" in refused(Training())


def test_invalid_arguments() -> None:
    training = Training()
    step = training.fused()
    for rows, error, message in (
        (torch.zeros(2, 3), TypeError, "rows must be an int64 tensor, got torch.float32"),
        ([[1]], TypeError, "rows must be an int64 tensor, got list"),
        (torch.zeros(3, dtype=torch.int64), ValueError, r"rows must be \(steps, batch\), got shape \(3,\)"),
        (torch.zeros(2, 0, dtype=torch.int64), ValueError, "at least one step of one observation"),
        (torch.zeros(2, 2, dtype=torch.int64, device="meta"), ValueError, "rows must be on the model's device cpu"),
    ):
        with pytest.raises(error, match=message):
            step(rows)  # type: ignore[arg-type]
    rows = rows_of(2, 2)
    with pytest.raises(ValueError, match=r"rates must be float32 \(2,\), contiguous, got torch.float64"):
        step(rows, torch.ones(2, dtype=torch.float64))
    with (
        torch.autocast("cpu", torch.bfloat16),
        pytest.raises(ValueError, match="turn autocast off"),
    ):
        step(rows)
    for data, error, message in (
        (torch.zeros(3, 12), ValueError, r"data must be \(N, 13\) with N >= 1, got shape \(3, 12\)"),
        (torch.zeros(3, 13).double(), TypeError, "data must be a float32 or uint8 tensor, got torch.float64"),
        (torch.zeros(13, 3).T, ValueError, "data must be contiguous"),
        (torch.zeros(3, 13, device="meta"), ValueError, "data must be on the model's device cpu, got meta"),
        (torch.full((3, 13), 2.0), ValueError, "takes numbers from 0 to 1, but x holds 2"),
    ):
        with pytest.raises(error, match=message):
            Training().fused(data=data)
    with pytest.raises(ValueError, match="divisor must be positive, and 1 for float32 data, got 255"):
        training.fused(divisor=255)
    with pytest.raises(TypeError, match="objective must be an iwae_fast.Objective, got str"):
        iw.FusedStep("IWAE", training.model, training.adam, training.data)  # type: ignore[arg-type]
    assert step.how == "many in one launch"
