"""Tests of CapturedStep with a tape in place of CUDA graphs: the same updates as a plain loop, with varying inputs."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from host_recorder import Tape, TapeRecorder
from torch import Tensor, nn
from torch.optim.lr_scheduler import ExponentialLR, OneCycleLR

import iwae_fast as iw
from iwae_fast.capture import Program
from iwae_fast.experiments.optimizers import PublishedAdam

RATE = 2.0**-7
"""The same number in float32 and in double."""

IWAE = iw.bounds.IWAE()


def adam(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.Adam(parameters, lr=RATE, fused=True, capturable=True)


class Loop:
    """A training step written out, without capture."""

    def __init__(self, objective: iw.Objective, model: nn.Module, optimizer: torch.optim.Optimizer, seed: Tensor):
        self.objective, self.model, self.optimizer, self.seed = objective, model, optimizer, seed.clone()

    def __call__(self, x: Tensor, *, context: tuple[Tensor, ...] = (), mask: Tensor | None = None) -> Tensor:
        self.optimizer.zero_grad()
        loss = self.objective(self.model, x, context=context, mask=mask, seed=self.seed)
        loss.backward()
        self.optimizer.step()
        self.seed = self.seed + 1
        return loss.detach()


def dense(latent_dims: tuple[int, ...] = (3,), hidden_dims: Any = ((6,),)) -> iw.models.DenseVAE:
    torch.manual_seed(1)
    return iw.models.DenseVAE(10, latent_dims, hidden_dims)


def batches(*sizes: int) -> list[Tensor]:
    torch.manual_seed(2)
    return [torch.rand(size, 10).round() for size in sizes]


class Pair:
    """Two copies of a training: one recorded, one stepped directly."""

    def __init__(
        self,
        objective: Callable[[], iw.Objective],
        build: Callable[[], nn.Module] = dense,
        optimizer: Callable[[Any], torch.optim.Optimizer] = adam,
    ) -> None:
        models = build(), build()
        self.recorder = TapeRecorder()
        optimizers = [optimizer(model.parameters()) for model in models]
        self.step = iw.CapturedStep(objective(), models[0], optimizers[0], seed=5, recorder=self.recorder)
        self.loop = Loop(objective(), models[1], optimizers[1], self.step.seed)

    def both(self, *batch: Tensor, **options: Tensor) -> None:
        recorded, expected = self.step(*batch, **options), self.loop(*batch, **options)
        torch.testing.assert_close(recorded, expected, rtol=0, atol=0)

    def agree(self) -> None:
        ours, theirs = self.step, self.loop
        torch.testing.assert_close(ours.model.state_dict(), theirs.model.state_dict(), rtol=0, atol=0)
        last, expected = ours.objective.last, theirs.objective.last
        torch.testing.assert_close(last[:4], expected[:4], rtol=0, atol=0)
        torch.testing.assert_close(ours.seed, theirs.seed)
        for one, other in zip(ours.model.parameters(), theirs.model.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad, rtol=0, atol=0)


def two_layers() -> iw.models.DenseVAE:
    return dense((4, 2), ((6,), (5,)))


def binary_latents() -> iw.models.BernoulliVAE:
    torch.manual_seed(1)
    return iw.models.BernoulliVAE(nn.Linear(10, 4), nn.Linear(4, 10), latent_dim=4)


@pytest.mark.parametrize(
    ("bound", "estimator", "options", "build"),
    [
        (IWAE, "reparameterized", {}, dense),
        (IWAE, "dreg", {"budget": 2}, dense),
        (IWAE, "reparameterized", {"chunk_size": 2}, dense),
        (iw.bounds.VRIWAE(0.3), "stl", {"reduction": "sum", "dataset_size": 40, "kl_weight": 0.5}, dense),
        (iw.bounds.ELBO(), "reparameterized", {"free_bits": 0.1}, dense),
        (iw.bounds.JVI(1), "dreg", {"budget": 3, "chunk_size": 2}, two_layers),
        (IWAE, "gdreg", {}, two_layers),
        (IWAE, "vimco", {}, binary_latents),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_replays_leave_the_bits_of_a_loop(bound: Any, estimator: str, options: dict, build: Any) -> None:
    pair = Pair(lambda: iw.Objective(bound, estimator, 4, **options), build)
    for x in batches(*[5] * 6):
        pair.both(x)
        pair.agree()
    assert (pair.recorder.rehearsed, pair.recorder.recorded, pair.recorder.replayed) == (2, 1, 4)
    assert pair.step.reason is None


def objective(**options: Any) -> iw.Objective:
    return iw.Objective(IWAE, "dreg", 4, **options)


@pytest.mark.parametrize(
    "optimizer",
    [PublishedAdam, lambda p: torch.optim.SGD(p, lr=RATE, momentum=0.5, fused=True), adam],
    ids=["PublishedAdam", "SGD", "Adam"],
)
def test_rates_are_followed(optimizer: Any) -> None:
    pair = Pair(objective, optimizer=lambda p: optimizer(p))
    optimizers = pair.step.optimizer, pair.loop.optimizer
    for each in optimizers:
        each.param_groups[0]["lr"] = RATE
    schedulers = [ExponentialLR(each, 0.5) for each in optimizers]
    for index, x in enumerate(batches(*[5] * 7)):
        pair.both(x)
        for scheduler in schedulers:
            scheduler.step()
        if index == 4:
            for each in optimizers:
                each.param_groups[0]["lr"] = torch.tensor(RATE)
    pair.agree()
    assert pair.recorder.recorded == 1
    assert pair.step.optimizer.param_groups[0]["lr"] is not pair.step._rates._tensors[0]


def test_a_ragged_batch_has_a_recording_of_its_own() -> None:
    pair = Pair(objective)
    for x in batches(*(5, 5, 3) * 4):
        pair.both(x)
        pair.agree()
    assert (pair.recorder.rehearsed, pair.recorder.recorded, pair.recorder.replayed) == (4, 2, 8)


def test_too_many_kinds_of_batches_are_run_without(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("iwae_fast.capture.step.MOST_GRAPHS", 1)
    pair = Pair(objective)
    for x in batches(*(5, 3, 4) * 4):
        pair.both(x)
    pair.agree()
    assert pair.recorder.recorded == 1
    assert len(pair.step._kinds) == 1  # and nothing is kept for the others


def test_context_and_masks() -> None:
    class Conditional(nn.Module):
        def __init__(self, inputs: int, outputs: int, halves: bool) -> None:
            super().__init__()
            self.layer, self.halves = nn.Linear(inputs + 2, outputs), halves

        def forward(self, value: Tensor, context: Tensor) -> Any:
            output = self.layer(torch.cat([value, context], -1))
            return tuple(output.chunk(2, -1)) if self.halves else output

    def build() -> iw.models.VAE:
        torch.manual_seed(1)
        return iw.models.VAE(Conditional(10, 6, True), Conditional(3, 10, False))

    pair = Pair(objective, build)
    for index, x in enumerate(batches(*[5] * 8)):
        context, mask = torch.randn(5, 2), torch.rand(5, 10) < 0.7
        pair.both(x, context=(context,), **({"mask": mask} if index % 2 else {}))
        pair.agree()
    assert pair.recorder.recorded == 2


def test_autocast_casts_the_weights_as_they_are_at_each_replay() -> None:
    """Replay inside one long autocast context, whose cache would keep the first casts."""
    pair, xs = Pair(objective), batches(*[5] * 6)
    with torch.autocast("cpu", torch.bfloat16):
        recorded = [pair.step(x) for x in xs]
    expected = []
    for x in xs:
        with torch.autocast("cpu", torch.bfloat16):
            expected.append(pair.loop(x))
    assert recorded == expected
    pair.agree()
    assert pair.recorder.recorded == 1


def test_autocast_and_frozen_parts_are_kinds_of_their_own() -> None:
    pair = Pair(objective)
    models = pair.step.model, pair.loop.model
    for x in batches(*[5] * 4):
        pair.both(x)
    for model in models:
        model.encoder.requires_grad_(False)
    for x in batches(*[5] * 4):
        pair.both(x)
    for x in batches(*[5] * 4):
        with torch.autocast("cpu", torch.bfloat16):
            pair.both(x)
    pair.agree()
    assert pair.recorder.recorded == 3


def test_what_was_handed_out_stays_what_it_was() -> None:
    pair = Pair(lambda: objective(budget=2))
    kept = []
    for x in batches(*[5] * 6):
        loss, last = pair.step(x), pair.step.objective.last
        assert pair.step.objective.last is last
        kept.append((loss, last, loss.clone(), [part.clone() for part in last[:4]]))
    for loss, last, loss_then, last_then in kept:
        assert torch.equal(loss, loss_then)
        assert all(torch.equal(part, then) for part, then in zip(last[:4], last_then, strict=True))
    assert len({loss.item() for loss, *_ in kept}) == 6


def test_noise_is_fresh_and_follows_from_the_seed() -> None:
    x = batches(5)[0]

    def losses(seed: int) -> list[float]:
        model = dense()
        still = torch.optim.Adam(model.parameters(), lr=0.0, fused=True, capturable=True)
        step = iw.CapturedStep(objective(), model, still, seed=seed, recorder=TapeRecorder())
        return [step(x).item() for _ in range(6)]

    one = losses(3)
    assert len(set(one)) == 6
    assert losses(3) == one
    assert not set(losses(4)) & set(one)
    model = dense()
    steps = [iw.CapturedStep(objective(), model, adam(model.parameters()), recorder=TapeRecorder()) for _ in range(2)]
    assert steps[0].seed != steps[1].seed  # by torch's generator


def test_a_saved_seed_and_optimizer_go_on() -> None:
    x = batches(5)[0]
    pair = Pair(objective)
    for _ in range(4):
        pair.both(x)
    saved = pair.step.optimizer.state_dict(), {n: t.clone() for n, t in pair.step.model.state_dict().items()}
    seed = pair.step.seed.clone()
    model = dense()
    step = iw.CapturedStep(objective(), model, adam(model.parameters()), recorder=TapeRecorder())
    for _ in range(3):
        step(x)
    model.load_state_dict(saved[1])
    step.optimizer.load_state_dict(saved[0])
    step.seed.copy_(seed)
    for _ in range(5):
        assert torch.equal(step(x), pair.loop(x))
    assert step._recorder.forgotten == 1


def test_a_setting_that_graphs_hold_fixed() -> None:
    pair = Pair(objective)
    for x in batches(*[5] * 4):
        pair.both(x)
    for each in (pair.step.optimizer, pair.loop.optimizer):
        each.param_groups[0]["betas"] = (0.5, 0.9)
    with pytest.warns(UserWarning, match="a setting of the optimizer other than its learning rate changed"):
        pair.both(batches(5)[0])
    pair.both(batches(5)[0])
    pair.agree()


def test_gradients_are_clipped_in_a_hook() -> None:
    pair = Pair(objective)
    for each in (pair.step, pair.loop):
        clip = partial(torch.nn.utils.clip_grad_norm_, list(each.model.parameters()), 1e-3)
        each.optimizer.register_step_pre_hook(lambda *_, clip=clip: (clip(), None)[1])
    for x in batches(*[5] * 5):
        pair.both(x)
    pair.agree()
    assert torch.nn.utils.get_total_norm([p.grad for p in pair.step.model.parameters()]) < 2e-3


def test_what_schedulers_keep_in_the_groups_is_no_setting() -> None:
    pair = Pair(objective)
    scheduler = OneCycleLR(pair.step.optimizer, 0.1, total_steps=20, cycle_momentum=False)
    for x in batches(*[5] * 5):
        pair.step(x)
        scheduler.step()
    assert pair.step.reason is None


def with_a_hooked_parameter() -> iw.models.DenseVAE:
    model = dense()
    model.decoder.output.bias.register_post_accumulate_grad_hook(lambda _: None)
    return model


class Hooked(iw.models.DenseVAE):
    def __init__(self) -> None:
        super().__init__(10, (3,), (6,))
        self.decoder.register_forward_hook(lambda *_: None)


REASONS = {
    "tolerance": ({"tolerance": 1e-3}, dense, adam, "depends on the data"),
    "sumo": ({"bound": iw.bounds.SUMO()}, dense, adam, r"SUMO\(80\) draws its number of samples on the host"),
    "schedule": ({"kl_weight": iw.schedules.LinearWarmup(5)}, dense, adam, "kl_weight is a schedule"),
    "hooks": ({}, Hooked, adam, r"decoder \(DenseDecoder\) has hooks"),
    "hook": ({}, with_a_hooked_parameter, adam, "the parameter decoder.output.bias has hooks"),
    "adam": ({}, dense, lambda p: torch.optim.Adam(p), "Adam counts its steps .* capturable=True"),
    "sgd": ({}, dense, lambda p: torch.optim.SGD(p, 0.1), "SGD reads its learning rate .* fused=True"),
    "lbfgs": ({}, dense, lambda p: torch.optim.LBFGS(p), "LBFGS does not have a 'capturable' setting"),
}


@pytest.mark.parametrize("case", REASONS)
def test_what_cannot_be_captured_is_known_beforehand(case: str) -> None:
    options, build, optimizer, message = REASONS[case]
    model = build()
    made = iw.Objective(options.pop("bound", IWAE), num_samples=4, **options)
    with pytest.warns(UserWarning, match=f"run one by one, not captured: .*{message}") as warned:
        step = iw.CapturedStep(made, model, optimizer(model.parameters()), recorder=TapeRecorder())
    assert warned[0].filename == __file__
    assert step.reason in str(warned[0].message)


def test_a_model_on_the_cpu_takes_the_same_steps_one_by_one() -> None:
    model, other = dense(), dense()
    with pytest.warns(UserWarning, match="the model is on cpu"):
        step = iw.CapturedStep(objective(tolerance=1e-3), model, adam(model.parameters()), seed=1)
    loop = Loop(objective(tolerance=1e-3), other, adam(other.parameters()), step.seed)
    for x in batches(5, 5, 3):
        assert torch.equal(step(x), loop(x))
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_a_schedule_is_asked_for_the_number_of_the_call() -> None:
    asked: list[int] = []
    made = iw.Objective(IWAE, num_samples=4, kl_weight=lambda step: asked.append(step) or 0.5)
    model = dense()
    with pytest.warns(UserWarning, match="kl_weight is a schedule"):
        step = iw.CapturedStep(made, model, adam(model.parameters()), recorder=TapeRecorder())
    for x in batches(5, 5, 5):
        step(x)
    assert asked == [0, 1, 2]


class Waiting(TapeRecorder):
    """A recorder that reports in every rehearsal that the host synchronizes."""

    def rehearse(self, function: Callable[[], Any]) -> tuple[Any, str | None]:
        return super().rehearse(function)[0], "it forces a device synchronization at here:1"


class Failing(TapeRecorder):
    def record(self, function: Callable[[], Any]) -> Any:
        try:
            raise RuntimeError("the cause\nand more")
        finally:
            raise ValueError(f"of the end of the capture of {function}")


@pytest.mark.parametrize(
    ("recorder", "message"), [(Waiting, "it forces a device synchronization"), (Failing, "RuntimeError: the cause$")]
)
def test_what_turns_out_to_be_impossible(recorder: type[TapeRecorder], message: str) -> None:
    model, other = dense(), dense()
    step = iw.CapturedStep(objective(), model, adam(model.parameters()), seed=1, recorder=recorder())
    loop = Loop(objective(), other, adam(other.parameters()), step.seed)
    with pytest.warns(UserWarning, match=message):
        losses = [step(x) for x in batches(5, 5, 5)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        losses += [step(x) for x in batches(5, 3)]
    assert losses == [loop(x) for x in (*batches(5, 5, 5), *batches(5, 3))]
    torch.testing.assert_close(model.state_dict(), other.state_dict(), rtol=0, atol=0)


def test_a_posterior_by_torchs_generators_waits_for_its_seed() -> None:
    class Encoder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = nn.Linear(10, 6)

        def forward(self, x: Tensor) -> torch.distributions.Distribution:
            mean, log_std = self.layer(x).chunk(2, -1)
            return torch.distributions.Laplace(mean, log_std.exp())

    model = iw.models.VAE(Encoder(), nn.Linear(3, 10))
    made = iw.Objective(IWAE, num_samples=4)
    step = iw.CapturedStep(made, model, adam(model.parameters()), recorder=TapeRecorder())
    for x in batches(5, 5):
        step(x)
    with pytest.warns(UserWarning, match="a number is read by the host"):
        step(x)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((IWAE, dense(), None), TypeError, "objective must be an iwae_fast.Objective, got IWAE"),
        ((objective(), nn.Linear(2, 2), None), TypeError, "model must be one of iwae_fast.models"),
        ((objective(), dense(), None), TypeError, "optimizer must be a torch.optim.Optimizer, got NoneType"),
        ((objective(reduction="none"), dense(), None), ValueError, "reduction 'mean' or 'sum'"),
    ],
)
def test_bad_arguments(arguments: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        iw.CapturedStep(*arguments)


def test_bad_batches() -> None:
    pair = Pair(objective)
    with pytest.raises(TypeError, match="x must be a torch.Tensor of observations .* got list"):
        pair.step([1.0])
    with pytest.raises(ValueError, match="must be on the model's device cpu, got meta"):
        pair.step(torch.zeros(5, 10, device="meta"))


def test_a_tape_repeats_operations_and_nothing_of_python() -> None:
    """Check that a replay runs the operations and no Python, on which the tests above depend."""
    count, total, number = 0, torch.zeros(()), torch.ones(())

    def function() -> Tensor:
        nonlocal count
        count += 1
        return total.add_(number * count)

    program = Program(function, TapeRecorder())
    assert [program().item() for _ in range(5)] == [1.0, 3.0, 6.0, 9.0, 12.0]
    number.fill_(2.0)
    assert program().item() == 18.0
    with pytest.raises(RuntimeError, match="a number is read by the host"), Tape():
        total.item()


def test_a_run_goes_on_from_its_states(tmp_path: Any) -> None:
    """Resume from a saved state, in a new step or in the same one; the following steps have the same bits."""
    data = batches(*[5] * 10)
    schedule = iw.schedules.LinearWarmup(8)

    def made(recorder: TapeRecorder | None, **options: Any) -> iw.CapturedStep:
        model = dense()
        return iw.CapturedStep(objective(**options), model, adam(model.parameters()), seed=5, recorder=recorder)

    def save(step: iw.CapturedStep) -> None:
        states = {name: getattr(step, name).state_dict() for name in ("model", "optimizer")}
        torch.save({**states, "step": step.state_dict()}, tmp_path / "run.pt")

    def load(step: iw.CapturedStep) -> None:
        states = torch.load(tmp_path / "run.pt")
        for name in ("model", "optimizer"):
            getattr(step, name).load_state_dict(states[name])
        step.load_state_dict(states["step"])

    for options in ({}, {"kl_weight": schedule}):
        recorder = None if options else TapeRecorder()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            whole, new = made(recorder, **options), made(TapeRecorder() if recorder else None, **options)
        for x in data[:5]:
            whole(x)
        save(whole)
        assert whole.state_dict()["calls"] == 5
        expected = [whole(x) for x in data[5:]]
        weights = {name: value.clone() for name, value in whole.model.state_dict().items()}
        for step in (new, whole):  # the latter has graphs, and is further on
            load(step)
            torch.testing.assert_close([step(x) for x in data[5:]], expected, rtol=0, atol=0)
            torch.testing.assert_close(dict(step.model.state_dict()), weights, rtol=0, atol=0)
        assert recorder is None or recorder.replayed > 3


def test_the_seed_alone_goes_back_without_another_capture() -> None:
    recorder, model = TapeRecorder(), dense()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, fused=True)
    step = iw.CapturedStep(objective(), model, optimizer, seed=5, recorder=recorder)
    (x,) = batches(5)
    for _ in range(4):
        step(x)
    state = step.state_dict()
    first = step(x)
    assert not torch.equal(step(x), first)
    step.load_state_dict(state)
    assert torch.equal(step(x), first)
    assert recorder.recorded == 1


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (None, TypeError, r"state_dict must be what state_dict\(\) returned, got NoneType"),
        ({"seed": 3}, ValueError, "must have 'seed' and 'calls', got 'seed'"),
        ({"seed": 3, "calls": 2.0}, TypeError, r"state_dict\['calls'\] must be an int, got float"),
        ({"seed": 3, "calls": -1}, ValueError, "must be at least 0, got -1"),
    ],
)
def test_states_that_are_refused(state: Any, error: type[Exception], message: str) -> None:
    model = dense()
    with pytest.warns(UserWarning, match="one by one"):
        step = iw.CapturedStep(objective(), model, adam(model.parameters()), seed=5)
    before = step.state_dict()
    with pytest.raises(error, match=message):
        step.load_state_dict(state)
    assert step.state_dict() == before


def test_observations_outside_the_support_take_no_step() -> None:
    pair = Pair(objective)
    (x,) = batches(5)
    before = {name: value.clone() for name, value in pair.step.model.state_dict().items()}
    with pytest.raises(ValueError, match="divide pixels from 0 to 255 by 255"):
        pair.step(255.0 * x)
    assert (pair.step.calls, pair.recorder.rehearsed) == (0, 0)
    torch.testing.assert_close(dict(pair.step.model.state_dict()), before, rtol=0, atol=0)
    pair.both(x)
    pair.agree()
